"""Waiting, generating and draining against a small HTTP server that answers as Triton does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trtbuild.errors import LaunchError
from trtbuild.health import count_in_flight, drain, generate, is_up, probe_generation, wait_ready

METRICS = """# HELP trtbuild_requests_waiting Requests waiting
# TYPE trtbuild_requests_waiting gauge
trtbuild_requests_waiting{model="m",version="1"} 3
trtbuild_requests_running{model="m",version="1"} 8
trtbuild_requests_running_total{model="m",version="1"} 100
trtbuild_request_slots{model="m",version="1"} 8
"""


class _Triton(BaseHTTPRequestHandler):
    ready = 200
    metrics: Callable[[], str] = staticmethod(lambda: METRICS)
    pieces: tuple[dict[str, object], ...] = ()

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(200, type(self).metrics())
        else:
            self._answer(type(self).ready, "")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stream"] is True
        if "missing" in self.path:
            self._answer(400, '{"error":"unknown model"}')
        else:
            self._answer(200, "".join(f"data: {json.dumps(piece)}\n\n" for piece in type(self).pieces))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[tuple[str, type[_Triton]]]:
    handler = type("Handler", (_Triton,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def test_up_and_not(triton: tuple[str, type[_Triton]]) -> None:
    url, handler = triton
    assert is_up(url)
    handler.ready = 400
    assert not is_up(url)
    assert not is_up("http://127.0.0.1:9", timeout_s=0.5)


def test_waiting_ends_with_the_process_or_the_time() -> None:
    with pytest.raises(LaunchError, match="the server ended .* before it was ready"):
        wait_ready("http://127.0.0.1:9", timeout_s=60, is_alive=lambda: False)
    now = iter(range(0, 1000, 10))
    with pytest.raises(LaunchError, match="was not ready after 25 s"):
        wait_ready("http://127.0.0.1:9", timeout_s=25, clock=lambda: float(next(now)), sleep=lambda _: None)


def test_generation_yields_pieces_and_turns_errors_into_ours(triton: tuple[str, type[_Triton]]) -> None:
    url, handler = triton
    handler.pieces = ({"text_output": "a"}, {"text_output": "b"})
    assert [p["text_output"] for p in generate(url, "m", {"text_input": "x"})] == ["a", "b"]
    assert probe_generation(url, "m") == "ab"
    handler.pieces = ({"error": "too long"},)
    with pytest.raises(LaunchError, match="the server answered: too long"):
        list(generate(url, "m", {"text_input": "x"}))
    with pytest.raises(LaunchError, match="answered 400: .*unknown model"):
        list(generate(url, "missing", {}))
    handler.pieces = ()
    with pytest.raises(LaunchError, match="answered nothing"):
        probe_generation(url, "m")
    with pytest.raises(LaunchError, match="did not answer"):
        list(generate("http://127.0.0.1:9", "m", {}))


def test_in_flight_is_waiting_plus_running() -> None:
    assert count_in_flight(METRICS) == 11
    assert count_in_flight("nothing here 5\n") == 0


def test_draining_waits_for_zero_to_last(triton: tuple[str, type[_Triton]]) -> None:
    url, handler = triton
    answers = iter([METRICS, METRICS.replace(" 3", " 0").replace(" 8", " 0"), METRICS])
    idle = METRICS.replace(" 3\n", " 0\n").replace(" 8\n", " 0\n")
    handler.metrics = staticmethod(lambda: next(answers, idle))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert drain(url, timeout_s=60, settle_s=1.0, clock=lambda: now[0], sleep=sleep) == 0
    assert now[0] >= 1.5
    handler.metrics = staticmethod(lambda: METRICS)
    assert drain(url, timeout_s=5, clock=lambda: now[0], sleep=sleep) == 11
    assert drain("http://127.0.0.1:9", timeout_s=5) == 0
