"""The main job through the installed command: download, build, cache, repository, serve, stream. Nothing is faked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hub_stub import HubStub
from trtbuild import health

pytestmark = pytest.mark.integration
MODEL = "example/pydoc-llama"
READY_S = 180.0


@dataclass
class Machine:
    """A command line with a store, a cache and a hub of its own."""

    directory: Path
    hub: HubStub
    env: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trtbuild", *arguments]

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRTBUILD_", "HF_", "XDG_"))}
        own = {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.directory / "hf"),
            "TRTBUILD_STORE": str(self.directory / "store"),
        }
        return kept | own | self.env

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        return done

    def json(self, *arguments: str) -> dict[str, Any]:
        document = json.loads(self.run(*arguments, "--format", "json").stdout)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def hub() -> Iterator[HubStub]:
    example = Path(__file__).resolve().parents[2] / "examples" / "pydoc-llama"
    with HubStub() as stub:
        stub.add_repo(MODEL, {p.name: p.read_bytes() for p in example.iterdir() if p.is_file()})
        yield stub


@pytest.fixture
def machine(tmp_path: Path, hub: HubStub) -> Machine:
    return Machine(tmp_path, hub)


def _generate(url: str, name: str, text: str) -> str:
    pieces = health.generate(url, name, {"text_input": text, "max_tokens": 16})
    return "".join(str(piece["text_output"]) for piece in pieces)


def test_a_model_is_built_once_and_the_second_run_is_a_hit(machine: Machine) -> None:
    first = machine.json(MODEL, "--backend", "cpu")
    assert first["hit"] is False
    assert len(first["revision"]) == 40
    requests = len(machine.hub.paths())
    second = machine.json(MODEL, "--backend", "cpu")
    assert second["hit"] is True
    assert (second["key"], second["repository"]) == (first["key"], first["repository"])
    assert len(machine.hub.paths()) == requests + 1, "a hit asks only what the branch points to"
    machine.env["HF_HUB_OFFLINE"] = "1"
    assert machine.json(MODEL, "--backend", "cpu", "--revision", first["revision"])["hit"] is True
    assert machine.run(MODEL, "--backend", "cpu").stdout == first["repository"] + "\n"
    assert machine.run("store", "verify").stdout.endswith("ok\n")
    changed = machine.run("explain", MODEL, "--backend", "cpu", "--max-batch-size", "4").stdout
    assert "max_batch_size: 4 here, 8 in the store" in changed


def test_init_then_serve_from_one_file(machine: Machine) -> None:
    """What a pod does. The branch moves in between: the server takes what init built."""
    config = machine.directory / "engine.yaml"
    config.write_text(
        f"model: {MODEL}\nbackend: cpu\nserved_name: talk\nrepository: {machine.directory}/run/models\n"
        "http_port: 0\ngrpc_port: 0\nmetrics_port: 0\n"
    )
    lines = [json.loads(line) for line in machine.run("init", "-c", str(config)).stderr.splitlines()]
    assert lines[-1]["event"] == "done"
    assert lines[-1]["hit"] is False
    built = {line["key"] for line in lines if line["event"] == "built"}

    files = {p.name: p.read_bytes() for p in (machine.directory / "hf" / "hub").rglob("snapshots/*/*") if p.is_file()}
    machine.hub.add_repo(MODEL, files | {"README.md": b"moved on\n"})

    log_path = machine.directory / "serve.log"
    with log_path.open("w") as log_file:
        server = subprocess.Popen(
            machine.command("serve", "-c", str(config), "--log-format", "text"),
            env=machine.environment(), cwd=machine.directory, stdout=log_file, stderr=log_file,
        )  # fmt: skip
    try:
        url = _url_in(log_path, server)
        health.wait_ready(url, timeout_s=READY_S, is_alive=lambda: server.poll() is None)
        assert Path(f"/proc/{server.pid}/exe").resolve().name == "tritonserver", "the server replaced the command"
        text = _generate(url, "talk", 'The "assert" statement')
        assert len(text) > 3
        assert _generate(url, "talk", 'The "assert" statement') == text
        assert f"engine {built.pop()} is in the store" in log_path.read_text()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        server.wait()
    assert not _processes_with(str(machine.directory)), "nothing of the server is left"


def test_serve_in_the_background_and_ask_for_its_health(machine: Machine) -> None:
    started = machine.json("serve", MODEL, "--backend", "cpu", "--http-port", "0", "--grpc-port", "0",
                           "--metrics-port", "0", "--wait", "--timeout", "180")  # fmt: skip
    try:
        port = started["url"].rsplit(":", 1)[1]
        ask = ["--http-port", port, MODEL]
        assert machine.run("health", "live", *ask).stdout == "ok\n"
        assert machine.run("health", "ready", *ask).stdout == "ok\n"
        assert "no such model" not in machine.run("health", "ready", "--http-port", port, "other", code=9).stdout
    finally:
        os.kill(started["pid"], signal.SIGTERM)
        for _ in range(600):
            if not _processes_with(str(machine.directory)):
                break
            time.sleep(0.1)
    assert not _processes_with(str(machine.directory))


def test_the_servers_command_can_be_shown(machine: Machine) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    shown = machine.run("serve", MODEL, "--backend", "cpu", *ports, "--dry-run").stdout
    assert "tritonserver" in shown
    assert "--model-repository=" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["example/missing"], 4, "example/missing", id="not-found"),
        pytest.param([MODEL, "--revision", "nope"], 4, "nope", id="bad-revision"),
        pytest.param([MODEL, "--tp", "2"], 2, "tp", id="impossible"),
        pytest.param([MODEL, "--quantization", "fp8"], 2, "fp8", id="quantization"),
    ],
)
def test_what_cannot_be_is_refused_before_a_weight_is_downloaded(
    machine: Machine, arguments: list[str], code: int, text: str
) -> None:
    failed = machine.run(*arguments, "--backend", "cpu", code=code)
    assert failed.stdout == ""
    assert text in failed.stderr
    assert "hint:" in failed.stderr
    assert not [path for path in machine.hub.paths() if "safetensors" in path]


def test_a_read_only_store_is_named(machine: Machine) -> None:
    blocked = machine.directory / "blocked"
    blocked.write_text("")
    failed = machine.run(MODEL, "--backend", "cpu", "--store", str(blocked / "store"), code=7)
    assert str(blocked) in failed.stderr


def test_the_demo_streams_text(machine: Machine) -> None:
    done = machine.run("demo", "--max-tokens", "8")
    assert "> What is the json module?" in done.stdout
    assert "requests in flight" in done.stderr
    assert not _processes_with(str(machine.directory))


def _url_in(log_path: Path, server: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        for word in log_path.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word
        assert server.poll() is None, log_path.read_text()
        time.sleep(0.1)
    raise AssertionError(log_path.read_text())


def _processes_with(text: str) -> list[str]:
    """Return the command lines of running processes that mention ``text``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if text in line and state != "Z" and int(process.name) != os.getpid():
            found.append(line)
    return found
