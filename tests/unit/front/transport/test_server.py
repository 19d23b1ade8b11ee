"""What a model concludes about its server: where it listens, how long it drains, whether it is ending."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trtbuild_server
from trtbuild_server import Answer, drain_time_s, http_address, last_option, probe_http, watch_for_end


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("127.0.0.1", 8000)),
        (["--http-port=9000", "--http-address=0.0.0.0"], ("127.0.0.1", 9000)),
        (["--http-port", "9000", "--http-address", "10.0.0.1"], ("10.0.0.1", 9000)),
        (["--http-address=[::1]", "--http-port=1", "--http-port=2"], ("::1", 2)),
        (["--allow-http=false"], None),
        (["--http-port=none"], None),
    ],
)
def test_where_the_server_listens(arguments: list[str], expected: tuple[str, int] | None) -> None:
    assert http_address(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 25.0),
        (["--exit-timeout-secs=60"], 55.0),
        (["--exit-timeout-secs=60", "--exit-timeout-secs=3"], 2.0),
        (["--exit-timeout-secs=soon"], 25.0),
    ],
)
def test_running_requests_are_told_before_the_server_s_own_timeout(arguments: list[str], expected: float) -> None:
    assert drain_time_s(arguments) == expected


def test_an_option_with_equals_signs_in_its_name() -> None:
    words = ["tritonserver", "--backend-config=python,shm-region-prefix-name=abc_"]
    assert last_option(words, trtbuild_server._PREFIX_OPTION, "") == "abc_"


def watch(answers: list[Answer]) -> list[bool]:
    """Return the changes that a run of answers gives."""
    changes: list[bool] = []
    stopping = threading.Event()
    left = iter(answers)

    def probe(_: tuple[str, int]) -> Answer:
        answer = next(left, None)
        if answer is None:
            stopping.set()
            return "unclear"
        return answer

    watch_for_end(("127.0.0.1", 1), changes.append, stopping, probe=probe, poll_s=0.0)
    return changes


@pytest.mark.parametrize(
    ("answers", "changes"),
    [
        pytest.param(["refuses"] * 9, [], id="not-listening-yet"),
        pytest.param(["refuses", "takes", "takes"], [], id="serving"),
        pytest.param(["takes", "closes", "closes", "closes", "refuses"], [True], id="ending"),
        pytest.param(["refuses", "closes", "closes"], [True], id="ending-before-it-was-seen"),
        pytest.param(["takes", "refuses", "refuses", "refuses"], [True], id="ending-without-connections"),
        pytest.param(["takes", "closes", "takes", "closes", "takes"], [], id="single-connections-lost"),
        pytest.param(["takes", "unclear", "unclear", "unclear"], [], id="busy"),
        pytest.param(["takes", "closes", "unclear", "closes"], [True], id="busy-while-ending"),
        pytest.param(["takes", "closes", "closes", "takes", "takes"], [True, False], id="a-false-alarm-is-taken-back"),
    ],
)
def test_when_a_server_is_ending(answers: list[Answer], changes: list[bool]) -> None:
    assert watch(answers) == changes


def serve_once(what: Callable[[socket.socket], None]) -> Answer:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                what(connection)

        thread = threading.Thread(target=run)
        thread.start()
        answer = probe_http(listener.getsockname()[:2])
        thread.join()
        return answer


def test_what_the_probe_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtbuild_server, "_PROBE_TIMEOUT_S", 0.3)

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    def close(_: socket.socket) -> None:
        return

    assert serve_once(answer) == "takes"
    assert serve_once(close) == "closes"
    assert serve_once(lambda _: time.sleep(0.6)) == "unclear"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()[:2]
    assert probe_http(address) == "refuses"


PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
time.sleep(600)
"""
CHILD = """
import ctypes, os, sys, time
sys.path.insert(0, {directory!r})
import trtbuild_server
trtbuild_server.end_with_server()
print(os.getpid(), flush=True)
{then}
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def guards_of(server: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().endswith(f"trtbuild_server.py\0{server}\0".encode()):
                found.append(int(path.parent.name))
    return found


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_process_ends_with_its_server(how: signal.Signals) -> None:
    directory = str(Path(trtbuild_server.__file__).parent)
    child = CHILD.format(directory=directory, then="time.sleep(600)")
    env = {**os.environ, "TRTBUILD_PYTHON": sys.executable}
    command = [sys.executable, "-c", PARENT, child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            eventually(lambda: len(guards_of(parent.pid)) == 1)
            guards = guards_of(parent.pid)
            parent.send_signal(how)
            parent.wait()
            eventually(lambda: not any(is_running(each) for each in (pid, *guards)))
        finally:
            parent.kill()
