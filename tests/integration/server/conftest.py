"""The example checkpoint, served by ``trtbuild serve`` itself on the real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("pytriton", reason="the CPU server (nvidia-pytriton) is not installed")
pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "pydoc-llama"
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that ``trtbuild serve --wait`` started.

    Attributes:
        said: What ``serve`` wrote to standard error.
    """

    pid: int
    url: str
    grpc: str
    metrics_url: str
    openai_url: str | None
    log: Path
    store: Path
    said: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Return status and body of one HTTP request."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def generate(self, model: str = "chat", **body: Any) -> tuple[int, dict[str, Any]]:
        """Return status and answer of one whole generation."""
        status, raw = self.ask("POST", f"/v2/models/{model}/generate", body)
        return status, json.loads(raw)

    def is_alive(self) -> bool:
        """Return whether the server's process is there and generates."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return self.generate(text_input="The", max_tokens=2)[0] == 200

    def argv(self) -> list[str]:
        """Return the server's command line."""
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().decode().split("\0")

    def environment(self) -> dict[str, str]:
        """Return the server's environment."""
        words = Path(f"/proc/{self.pid}/environ").read_bytes().decode().split("\0")
        return dict(word.split("=", 1) for word in words if "=" in word)

    def api_value(self) -> str:
        """Return the value that opens the restricted APIs."""
        values = {word.rpartition("=")[2] for word in self.argv() if "trtbuild-restricted=" in word}
        assert len(values) == 1
        return values.pop()

    def send_chunks(self, path: str, count: int) -> bytes:
        """Send a request of ``count`` one-byte chunks; return the beginning of the answer, empty when there is none."""
        host, port = urlsplit(self.url).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as sock:
            try:
                sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
                for _ in range(count // 10_000):
                    sock.sendall(b"1\r\nA\r\n" * 10_000)
                sock.sendall(b"0\r\n\r\n")
                return sock.recv(100)
            except OSError:
                return b""


Serve = Callable[..., Served]


def run_serve(
    workspace: Path, *options: str, env: dict[str, str] | None = None, model: Path = EXAMPLE, name: str = "chat"
) -> Served:
    """Serve a model on free ports, by default the example as ``chat``; the caller ends it."""
    store = workspace / "store"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRTBUILD_")}
    command = [
        sys.executable, "-m", "trtbuild", "serve", str(model), "--backend", "cpu", "--name", name, "--store",
        str(store), "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--wait", "--format", "json",
        *options,
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**clean, **(env or {})}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return Served(
        pid=document["pid"],
        url=document["url"],
        grpc=f"127.0.0.1:{document['grpc_port']}",
        metrics_url=document["metrics_url"],
        openai_url=document["openai_url"],
        log=Path(document["log"]),
        store=store,
        said=done.stderr,
    )


def stop(served: Served) -> None:
    """End a server that may have ended already, and wait until it has."""
    stat = Path(f"/proc/{served.pid}/stat")
    with contextlib.suppress(ProcessLookupError):
        os.kill(served.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                    return
            except OSError:
                return
            time.sleep(0.1)
        os.kill(served.pid, signal.SIGKILL)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that end with the test."""
    started: list[Served] = []

    def start(*options: str, env: dict[str, str] | None = None) -> Served:
        started.append(run_serve(tmp_path, *options, env=env))
        return started[-1]

    yield start
    for served in started:
        stop(served)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server as ``serve`` starts it without options about access."""
    served = run_serve(tmp_path_factory.mktemp("closed"))
    yield served
    stop(served)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with every API opened, and the engine model as well."""
    apis = [word for api in ("shared-memory", "model-repository", "logging", "trace") for word in ("--open-api", api)]
    served = run_serve(tmp_path_factory.mktemp("opened"), *apis, "--layout", "full")
    yield served
    stop(served)
