"""The clients against a real Triton server with a real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino_genai")
pytest.importorskip("pytriton", reason="the CPU server (nvidia-pytriton) is not installed")

from tests.integration.clients.test_client_standin import start, trtclient
from trtbuild.serve.ports import choose_ports
from trtbuild.spec import ServerSpec

pytestmark = pytest.mark.integration
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "pydoc-llama"
QUESTION = "What is the json module?"
TIMEOUT_S = 60.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Server:
    http: str
    grpc: str
    metrics: str

    def url(self, protocol: str) -> str:
        return self.grpc if protocol == "grpc" else self.http

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series (one model is served); ``name`` may end in labels."""
        with _OPENER.open(f"{self.metrics}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)]
        assert found, name
        return sum(found)

    def cancelled(self) -> float:
        return self.metric('trtbuild_requests_total{model="talk",outcome="cancelled"')

    def running(self) -> float:
        return self.metric("trtbuild_requests_running{")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("served")
    ports = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRTBUILD_", "HF_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-m", "trtbuild", "serve", str(EXAMPLE), "--backend", "cpu", "--served-name", "talk", "--wait",
         "--max-batch-size", "4", "--max-queue-size", "4", "--http-port", str(ports.http), "--grpc-port",
         str(ports.grpc), "--metrics-port", str(ports.metrics), "--openai-port", str(ports.openai), "--format", "json"],
        env={**kept, "TRTBUILD_STORE": str(directory / "store"), "HF_HOME": str(directory / "hf")},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode == 3:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    pid = int(json.loads(done.stdout)["pid"])
    try:
        yield Server(
            http=f"http://127.0.0.1:{ports.http}",
            grpc=f"grpc://127.0.0.1:{ports.grpc}",
            metrics=f"http://127.0.0.1:{ports.metrics}",
        )
    finally:
        os.kill(pid, signal.SIGTERM)
        _eventually(lambda: not Path(f"/proc/{pid}/cmdline").exists() or _is_zombie(pid), "the server has ended")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def _eventually(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


PROTOCOLS = pytest.mark.parametrize("protocol", ["http", "grpc"])


@PROTOCOLS
def test_a_conversation(server: Server, protocol: str) -> None:
    """The model knows this question by heart; a second turn sends the first along."""
    url = server.url(protocol)
    first = trtclient("chat", url, "talk", "-m", QUESTION, "--max-tokens", "16")
    assert "JSON (JavaScript Object Notation)" in first.stdout
    assert "16 tokens, first after" in first.stderr
    two = trtclient("chat", url, "talk", "-m", QUESTION, "-m", "And the os module?", "--max-tokens", "16")
    assert two.stdout.startswith(first.stdout)
    assert two.stdout != first.stdout


def test_a_conversation_is_piped(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trtclient", "chat", server.http, "talk", "--max-tokens", "8"],
        input=f"{QUESTION}\n/history\n/undo\n/history\n\n/quit\nnever asked\n", capture_output=True, text=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert done.stderr.count(f"user: {QUESTION}") == 1
    assert done.stderr.count("tokens, first after") == 1


@PROTOCOLS
def test_ctrl_c_frees_the_engines_slot(server: Server, protocol: str) -> None:
    """The server looks for clients that have gone every 0.4 s; on a quick machine an answer may end before. So others
    keep the engine busy meanwhile, and the question is asked again if it was answered too soon."""
    _eventually(lambda: server.running() == 0, "nothing runs")
    before = server.cancelled()
    flags = ["--concurrency", "3", "--duration", "10m", "--max-tokens", "400", "--force-length"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    others = start("load", server.url(protocol), "talk", *flags, **quiet)
    try:
        _eventually(lambda: server.running() >= 3, "the engine is busy")
        for _ in range(20):
            _ask_and_interrupt(server.url(protocol))
            _eventually(lambda: server.running() <= 3, "the slot is free")
            if _soon(lambda: server.cancelled() > before):
                break
        assert server.cancelled() == before + 1
    finally:
        others.send_signal(signal.SIGINT)
        others.wait(TIMEOUT_S)
    _eventually(lambda: server.running() == 0, "all slots are free")


def _soon(is_true: Callable[[], bool]) -> bool:
    """Return whether something comes true within the time in which the server notices and counts what has ended."""
    deadline = time.monotonic() + 5
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _ask_and_interrupt(url: str) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = start("chat", url, "talk", "-m", QUESTION, "--max-tokens", "400", "--param", "min_tokens=400", **pipes)
    assert child.stdout is not None
    assert child.stdout.read(1), "it has begun"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 130
    assert "cancelled]" in said


@PROTOCOLS
def test_load_is_counted_by_the_server_and_the_client_alike(server: Server, protocol: str, tmp_path: Path) -> None:
    _eventually(lambda: server.running() == 0, "nothing runs")
    before = {name: server.metric(f"trtbuild_{name}_tokens_total") for name in ("prompt", "generation")}
    html = tmp_path / "r.html"
    done = trtclient(
        "load", server.url(protocol), "talk", "--concurrency", "4", "--requests", "24", "--prompt-tokens", "12..24",
        "--max-tokens", "4..8", "--force-length", "--slo", "e2e=1h", "--html", str(html), "--format", "json",
    )  # fmt: skip
    report = json.loads(done.stdout)
    summary = report["summary"]
    assert (summary["requests"], summary["ok"], summary["good"]) == (24, 24, 24)
    assert summary["is_counted"]
    calibration = 1
    _eventually(
        lambda: (
            server.metric("trtbuild_generation_tokens_total") - before["generation"]
            == summary["completion_tokens"] + calibration
        ),
        "the server's own counters agree",
    )
    assert server.metric("trtbuild_prompt_tokens_total") - before["prompt"] > summary["prompt_tokens"]
    assert 24 * 4 <= summary["completion_tokens"] <= 24 * 8
    assert 0.7 * 24 * 12 <= summary["prompt_tokens"] <= 1.3 * 24 * 24, "made-up prompts are about as long as asked"
    assert report["settings"]["tokens_per_word"] > 0.5
    assert "<svg" in html.read_text()


@PROTOCOLS
def test_unstreamed_answers(server: Server, protocol: str) -> None:
    done = trtclient("load", server.url(protocol), "talk", "--concurrency", "2", "--requests", "4", "--max-tokens", "6",
                     "--force-length", "--no-stream", "--format", "json")  # fmt: skip
    summary = json.loads(done.stdout)["summary"]
    assert (summary["ok"], summary["completion_tokens"], summary["itl"]["count"]) == (4, 24, 0)


@PROTOCOLS
def test_more_than_the_queue_holds_is_overload(server: Server, protocol: str) -> None:
    """Four slots and four places in the queue: of thirty at once some are refused, and are named so."""
    done = trtclient("load", server.url(protocol), "talk", "--rate", "300", "--arrival", "constant", "--requests", "30",
                     "--max-tokens", "200", "--force-length", "--format", "json", code=10)  # fmt: skip
    summary = json.loads(done.stdout)["summary"]
    assert set(summary["failures"]) == {"overloaded"}
    assert summary["ok"] >= 8
    assert summary["ok"] + summary["failures"]["overloaded"] == 30


@PROTOCOLS
def test_a_batch_wider_than_the_queue_is_answered_whole(server: Server, protocol: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"messages": [{"role": "user", "content": QUESTION}], "reference": "Object Notation"}] * 24
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = trtclient(
        "batch", str(source), "-o", str(out), "--url", server.url(protocol), "--model", "talk", "--concurrency", "24",
        "--max-tokens", "16", "--score", "contains", "--format", "json",
    )  # fmt: skip
    summary = json.loads(done.stdout)
    assert (summary["answered"], summary["right"], summary["failures"]) == (24, 24, {})
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [str(number) for number in range(1, 25)]
    assert {answer["finish_reason"] for answer in answers} == {"length"}
    assert {answer["text"] for answer in answers} == {answers[0]["text"]}


@PROTOCOLS
def test_refusals_say_what_to_change(server: Server, protocol: str) -> None:
    url = server.url(protocol)
    wrong = trtclient("chat", url, "talk", "-m", "x", "--param", "temperature=-1", code=9)
    assert "temperature: expected a number >= 0, got -1" in wrong.stderr
    assert "hint: correct the request" in wrong.stderr
    missing = trtclient("chat", url, "nope", "-m", "x", code=9)
    assert "unknown model: 'nope'" in missing.stderr
    assert "hint: check the model's name" in missing.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "grpc://127.0.0.1:1"])
def test_no_server_listens(url: str) -> None:
    done = trtclient("load", url, "talk", "--rate", "1", code=9)
    assert "refused" in done.stderr
    assert "is the server running" in done.stderr
