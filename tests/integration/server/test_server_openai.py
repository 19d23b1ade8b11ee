"""The OpenAI port of a server that ``trtbuild serve`` started: its settings, its directory, and who may use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.server.conftest import EXAMPLE, Serve, Served, stop


def settings(served: Served) -> dict[str, object]:
    """Return what the server's models were given."""
    document = json.loads(served.environment()["TRTBUILD_OPENAI"])
    assert isinstance(document, dict)
    return document


def runtime_directory(served: Served) -> Path:
    """Return where the server's models meet."""
    return Path(str(settings(served)["runtime_dir"]))


def serve_command(store: Path, *options: str) -> list[str]:
    """Return the command that serves the example."""
    return [
        sys.executable, "-m", "trtbuild", "serve", str(EXAMPLE), "--backend", "cpu", "--name", "chat", "--store",
        str(store), *options,
    ]  # fmt: skip


def test_models_are_given_the_port_that_serve_says(closed: Served) -> None:
    found = settings(closed)
    assert closed.openai_url == f"http://127.0.0.1:{found['port']}"
    assert f"OpenAI API at {closed.openai_url}/v1, chat page at {closed.openai_url}/" in closed.said
    assert (found["api_key_file"], found["allowed_origins"], found["max_body_bytes"]) == ("", [], 8 << 20)
    assert runtime_directory(closed).stat().st_mode & 0o777 == 0o700


def test_the_directory_of_a_killed_server_goes_with_the_next_start(serve: Serve) -> None:
    killed, running = serve(), serve()
    old, used = runtime_directory(killed), runtime_directory(running)
    assert old != used
    os.kill(killed.pid, signal.SIGKILL)
    stop(killed)
    deadline = time.monotonic() + 60  # its models' processes notice a moment later
    while old.exists() and time.monotonic() < deadline:
        stop(serve())
    assert not old.exists()
    assert used.is_dir()


def test_a_server_without_the_port_has_no_directory(serve: Serve) -> None:
    served = serve("--openai-port", "0", env={"TRTBUILD_OPENAI": '{"host": "127.0.0.1", "port": 8080}'})
    assert served.environment()["TRTBUILD_OPENAI"] == ""
    assert served.openai_url is None
    assert "OpenAI" not in served.said


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        pytest.param(("--api-key-file", "missing.txt"), 2, "cannot read missing.txt", id="no-keys"),
        pytest.param(("--openai-allowed-origin", "a.example"), 2, "got 'a.example'", id="origin"),
        pytest.param(("--openai-port", "8001"), 2, "--openai-port: 8001 is --grpc-port, too", id="one-port-twice"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_built(
    options: tuple[str, ...], code: int, text: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        serve_command(tmp_path / "store", *options), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code
    assert text in done.stderr
    assert "hint:" in done.stderr
    assert not list((tmp_path).glob("store/engines/*"))


def test_a_dry_run_shows_the_settings_and_no_key(closed: Served, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("a-key-that-nobody-knows\n")
    command = serve_command(closed.store, "--openai-port", "9123", "--api-key-file", str(keys), "--dry-run")
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("env 'TRTBUILD_OPENAI={")
    assert '"port": 9123' in shown
    assert str(keys) in shown
    assert "nobody-knows" not in shown
