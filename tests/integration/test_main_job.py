"""The main job through the installed command: download, build, cache, repository, serve, stream. Nothing is faked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub
from tests.integration.command_line import MODEL, Machine, add_example, left_running, wait_until
from trtbuild.errors import LaunchError
from trtbuild.serve import health, probes

pytestmark = pytest.mark.integration
READY_S = 180.0
ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        add_example(stub)
        yield stub


@pytest.fixture
def machine(tmp_path: Path, hub: HubStub) -> Machine:
    return Machine(tmp_path, hub)


def _generate(url: str, name: str, text: str) -> str:
    pieces = probes.generate(url, name, {"text_input": text, "max_tokens": 16})
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
    assert not left_running(str(machine.directory)), "nothing of the server is left"


def test_serve_in_the_background_and_ask_for_its_health(machine: Machine) -> None:
    started = machine.json("serve", MODEL, "--backend", "cpu", *ANY_PORTS, "--wait", "--timeout", "180")
    try:
        ports = [started[name].rsplit(":", 1)[1] for name in ("url", "metrics_url")]
        ask = ["--http-port", ports[0], "--metrics-port", ports[1]]
        assert machine.run("health", "live", *ask).stdout == "ok\n"
        assert probes.count_outcomes(probes.read_metrics(started["metrics_url"]))["pydoc-llama"]["ok"] == 0
        asked = [machine.start("health", "ready", *ask) for _ in range(3)]
        assert [probe.communicate(timeout=120)[0] for probe in asked] == ["ok\n"] * 3, "probes may meet"
        assert _wait_for("ok", started["metrics_url"]) >= 1, "ready means that a real generation came back"
        for _ in range(2):
            assert machine.run("health", "ready", *ask, MODEL).stdout == "ok\n"
        assert "'other' is not found" in machine.run("health", "ready", *ask, "other", code=9).stderr
        assert _wait_for("ok", started["metrics_url"]) <= len(asked), "once is enough"
        assert machine.run("drain", *ask, "--timeout", "10").stdout == "0\n"
        taken = machine.run(
            "serve", MODEL, "--backend", "cpu", "--http-port", ports[0], "--max-batch-size", "3", code=9
        )
        assert f"cannot listen on 127.0.0.1:{ports[0]} (http_port)" in taken.stderr
        assert "built" not in taken.stderr, "it is told before the build"

        _kill_model_process(started["pid"], "tensorrt_llm")
        with pytest.raises(LaunchError):  # the first request that needs it finds out
            _generate(started["url"], "pydoc-llama", "x")
        assert _wait_for("failed", started["metrics_url"]) == 1
        assert probes.is_up(started["url"]), "the server itself goes on to say that it is ready"
        for what in ("live", "ready"):
            assert "a model process is dead" in machine.run("health", what, *ask, code=9).stderr
    finally:
        os.killpg(started["pid"], signal.SIGKILL)
    assert not left_running(str(machine.directory))


def test_a_server_that_ends_at_once_is_told_with_its_words(machine: Machine) -> None:
    arguments = ["serve", MODEL, "--backend", "cpu", *ANY_PORTS, "--server-arg", "no-such-option=1", "--wait"]
    failed = machine.run(*arguments, code=9)
    assert failed.stdout == ""
    assert "unrecognized option '--no-such-option=1'" in failed.stderr
    assert "before it was ready" in failed.stderr
    kept = Path(failed.stderr.rsplit("the whole log: ", 1)[1].strip())
    assert "no-such-option" in kept.read_text()


def test_waiting_for_a_server_can_be_ended(machine: Machine) -> None:
    machine.run(MODEL, "--backend", "cpu")
    waiting = machine.start("serve", MODEL, "--backend", "cpu", *ANY_PORTS, "--wait")
    assert wait_until(lambda: list((machine.directory / "store" / "logs").glob("serve-*.log")), waiting)
    time.sleep(0.5)  # somewhere in the load
    waiting.send_signal(signal.SIGTERM)
    _, errors = waiting.communicate(timeout=120)
    assert waiting.returncode == 143, errors
    assert not left_running(str(machine.directory)), "the server was ended, too"


def test_the_servers_command_can_be_shown(machine: Machine) -> None:
    shown = machine.run("serve", MODEL, "--backend", "cpu", *ANY_PORTS, "--dry-run").stdout
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
    assert not left_running(str(machine.directory))


def _url_in(log_path: Path, server: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        for word in log_path.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word
        assert server.poll() is None, log_path.read_text()
        time.sleep(0.1)
    raise AssertionError(log_path.read_text())


def _kill_model_process(server: int, model: str) -> None:
    """Kill -9 the process in which Triton's Python backend runs a model."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == server and any(f"/{model}/1/model.py".encode() in word for word in words):
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise AssertionError(f"no process of {model}")


def _wait_for(outcome: str, metrics_url: str) -> float:
    """Return how many requests ended so, by the server's own count, which follows a moment after the fact."""
    for _ in range(300):
        count = probes.count_outcomes(probes.read_metrics(metrics_url))["pydoc-llama"][outcome]
        if count:
            break
        time.sleep(0.1)
    return count
