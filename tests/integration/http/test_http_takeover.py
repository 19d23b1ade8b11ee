"""Model processes that are killed, stopped and started: the port is always somebody's, and clients learn of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "model_repo_templates" / "_shared"))

from tests.unit.http.kit import Answer, Client, post, request, wait_until  # noqa: E402

pytestmark = pytest.mark.integration


class Process:
    """One model process and its log."""

    def __init__(self, directory: Path, port: int, name: str, version: str = "1") -> None:
        script = Path(__file__).with_name("process.py")
        self.process = subprocess.Popen(
            [sys.executable, script, directory, str(port), name, version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        wait_until(lambda: any("started" in line for line in self.log))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line.rstrip())

    @property
    def has_port(self) -> bool:
        return any("listening at" in line for line in self.log)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            assert self.process.wait(20) == 0
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def begin(tmp_path: Path, port: int) -> Iterator[Callable[..., Process]]:
    tmp_path.chmod(0o700)
    processes: list[Process] = []

    def start(name: str, version: str = "1") -> Process:
        processes.append(Process(tmp_path, port, name, version))
        return processes[-1]

    yield start
    for process in processes:
        if process.process.poll() is None and process.process.stdin and not process.process.stdin.closed:
            process.process.send_signal(signal.SIGCONT)
        process.end()


def _ask(port: int, data: bytes) -> Answer | None:
    """Return an answer, None if nobody is there or the connection broke."""
    try:
        with Client(("127.0.0.1", port)) as client:
            client.send(data)
            return client.read()
    except (OSError, EOFError):
        return None


def _names(port: int) -> list[str]:
    answer = _ask(port, request("GET", "/v1/models"))
    return [each["id"] for each in answer.json()["data"]] if answer else []


def test_the_port_survives_its_owners(begin: Callable[..., Process], port: int) -> None:
    alive = {name: begin(name) for name in ("a", "b", "c")}
    wait_until(lambda: _names(port) == ["a", "b", "c"])
    seen = set()
    for _ in range(6):
        (owner,) = (name for name, process in alive.items() if process.has_port)
        seen.add(owner)
        alive[owner].kill()
        del alive[owner]
        killed_at = time.monotonic()
        wait_until(lambda: _ask(port, request("GET", "/health")) is not None)
        assert time.monotonic() - killed_at < 10
        wait_until(lambda: _names(port) == sorted(alive))
        for name in alive:
            answer = _ask(port, post({"model": name}))
            assert answer is not None
            assert answer.json()["from"] == name
        answer = _ask(port, post({"model": owner}))
        assert answer is not None
        assert answer.status == 404
        alive[owner] = begin(owner)
        wait_until(lambda: _names(port) == ["a", "b", "c"])
    assert len(seen) > 1


def test_a_killed_owner_breaks_its_clients_and_no_others(begin: Callable[..., Process], port: int) -> None:
    owner, other = begin("a"), begin("b")
    wait_until(lambda: _names(port) == ["a", "b"])
    with Client(("127.0.0.1", port)) as client:
        client.send(post({"model": "b", "events": 100_000, "gap_s": 0.001}))
        client._until(b"data: ")
        owner.kill()
        assert b"data: [DONE]" not in client.rest()
    wait_until(lambda: other.has_port)
    wait_until(lambda: _names(port) == ["b"])
    answer = _ask(port, post({"model": "b", "events": 3}))
    assert answer is not None
    assert answer.events()[-1] == "[DONE]"


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_killed_sibling_ends_its_requests_with_an_error(
    begin: Callable[..., Process], port: int, is_stream: bool
) -> None:
    begin("a")
    other = begin("b")
    wait_until(lambda: _names(port) == ["a", "b"])
    document = {"events": 100_000, "gap_s": 0.001, "padding": 5000} if is_stream else {"never": True}
    with Client(("127.0.0.1", port)) as client:
        client.send(post({"model": "b", **document}))
        if is_stream:
            wait_until(lambda: b"data: " in client.socket.recv(1 << 16, socket.MSG_PEEK))
        else:
            time.sleep(0.3)
        other.kill()
        answer = client.read()
        client.send(post({"model": "a"}))
        assert client.read().json()["from"] == "a"
    if is_stream:
        events = answer.events()
        assert [json.loads(event)["n"] for event in events[:-1]] == list(range(len(events) - 1))
        error = json.loads(events[-1])["error"]
    else:
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        error = answer.json()["error"]
    assert error["code"] == "model_process_ended"
    assert error["type"] == "server_error"


def test_a_process_that_is_started_again_answers_again(begin: Callable[..., Process], port: int) -> None:
    begin("a")
    for _ in range(3):
        other = begin("b")
        wait_until(lambda: _names(port) == ["a", "b"])
        answer = _ask(port, post({"model": "b"}))
        assert answer is not None
        assert answer.json()["from"] == "b"
        other.kill()
        wait_until(lambda: _names(port) == ["a"])


def test_a_new_version_takes_over_under_load(begin: Callable[..., Process], port: int) -> None:
    """As Triton swaps versions: the new one is loaded, then the old one is unloaded. No request may fail."""
    old = begin("a", "1")
    wait_until(lambda: _names(port) == ["a"])
    marks: list[str] = []
    failures: list[object] = []
    is_over = threading.Event()

    def load() -> None:
        while not is_over.is_set():
            is_judged = is_steady.is_set()
            answer = _ask(port, post({"model": "a"}))
            if answer is not None and answer.status == 200:
                marks.append(answer.json()["mark"])
            elif is_judged and is_steady.is_set():
                failures.append(answer and (answer.status, answer.body))

    is_steady = threading.Event()
    is_steady.set()
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    new = begin("a", "2")
    wait_until(lambda: marks[-1:] == ["2"])
    assert failures == []
    is_steady.clear()  # the port changes hands now, and connections are refused for a moment
    old.end()
    wait_until(lambda: new.has_port)
    is_steady.set()
    count = len(marks)
    wait_until(lambda: len(marks) > count + 50)
    is_over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert marks[-1] == "2"


def test_a_process_that_stands_still_is_said_to_be_unready(begin: Callable[..., Process], port: int) -> None:
    begin("a")
    other = begin("b")
    wait_until(lambda: _names(port) == ["a", "b"])
    other.process.send_signal(signal.SIGSTOP)
    try:
        ready = _ask(port, request("GET", "/health/ready"))
        assert ready is not None
        assert (ready.status, ready.json()["reasons"]) == (503, {"b": "its process does not answer"})
        answer = _ask(port, post({"model": "a"}))
        assert answer is not None
        assert answer.status == 200
    finally:
        other.process.send_signal(signal.SIGCONT)
    wait_until(lambda: (ready := _ask(port, request("GET", "/health/ready"))) is not None and ready.status == 200)


def test_a_second_server_on_the_port_says_so(
    begin: Callable[..., Process], port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = begin("a")
    wait_until(lambda: first.has_port)
    directory = tmp_path_factory.mktemp("other")
    directory.chmod(0o700)
    second = Process(directory, port, "a")
    try:
        wait_until(lambda: any(f"port 127.0.0.1:{port} is taken by another process" in line for line in second.log))
        assert not second.has_port
        first.kill()
        wait_until(lambda: second.has_port)
    finally:
        second.end()
