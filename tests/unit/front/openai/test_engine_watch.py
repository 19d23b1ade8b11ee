"""What is said of the engine's state, with servers that answer what a server would."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from trtbuild_front.openai import engine_watch
from trtbuild_front.openai.engine_watch import EngineWatch, find_fault


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers from a table."""

    def do_GET(self) -> None:
        status, text = self.server.table.get(self.path, (404, ""))  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    found.table = {"/v2/models/tensorrt_llm/ready": (200, ""), "/metrics": (200, "")}  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


UP = 'trtbuild_engine_up{model="tensorrt_llm",version="1"}'


@pytest.mark.parametrize(
    ("ready", "metrics", "fault"),
    [
        pytest.param(200, f"# HELP x\n{UP} 1.000000\n", "", id="up"),
        pytest.param(200, "nothing of ours", "", id="another-engine"),
        pytest.param(200, f"a 1\n{UP} 0.000000\nb 2\n", "the engine process has ended", id="down"),
        pytest.param(200, f"{UP} 0\n", "the engine process has ended", id="down-as-0"),
        pytest.param(200, UP.replace("tensorrt_llm", "other") + " 0\n", "", id="another-model"),
        pytest.param(403, f"{UP} 1\n", "", id="nobody-may-ask"),
        pytest.param(400, f"{UP} 1\n", "the engine model 'tensorrt_llm' is not ready", id="not-ready"),
    ],
)
def test_what_the_server_says(server: Any, ready: int, metrics: str, fault: str) -> None:
    server.table = {"/v2/models/tensorrt_llm/ready": (ready, ""), "/metrics": (200, metrics)}
    address = ("127.0.0.1", server.server_address[1])
    assert find_fault("tensorrt_llm", address, address).startswith(fault)
    assert bool(find_fault("tensorrt_llm", address, address)) == bool(fault)
    assert find_fault("tensorrt_llm", None, None) == ""


def test_a_server_that_does_not_listen_yet() -> None:
    nobody = ("127.0.0.1", 9)
    assert "does not take requests" in find_fault("tensorrt_llm", nobody, None)
    assert find_fault("tensorrt_llm", None, nobody) == ""


def test_it_asks_until_all_is_well_and_then_only_while_somebody_is_interested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_watch, "_PERIOD_S", 0.01)
    monkeypatch.setattr(engine_watch, "_INTEREST_S", 0.2)
    asked: list[float] = []
    faults = ["loading", "loading", ""]

    def ask() -> str:
        asked.append(time.monotonic())
        return faults.pop(0) if len(faults) > 1 else faults[0]

    watch = EngineWatch(ask)
    assert watch.fault()
    watch.start()
    deadline = time.monotonic() + 10
    while watch.fault() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert watch.fault() == "" and len(asked) >= 3
    while time.monotonic() - asked[-1] < 0.5:  # it stops asking
        assert time.monotonic() < deadline
        time.sleep(0.05)
    count = len(asked)
    faults[0] = "down"
    watch.fault()
    while watch.fault() != "down":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert len(asked) > count
    watch.stop()
