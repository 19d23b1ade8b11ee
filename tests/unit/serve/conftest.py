"""A small HTTP server that answers as Triton does, and metrics as a front model writes them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

METRICS = """# HELP trtbuild_requests_waiting Requests waiting
# TYPE trtbuild_requests_waiting gauge
trtbuild_requests_waiting{model="m",version="1"} 3
trtbuild_requests_running{model="m",version="1"} 8
trtbuild_requests_running_total{model="m",version="1"} 100
trtbuild_request_slots{model="m",version="1"} 8
"""


class FakeTriton(BaseHTTPRequestHandler):
    ready = 200
    metrics: Callable[[], str] = staticmethod(lambda: METRICS)
    pieces: tuple[dict[str, object], ...] = ()
    generations: int = 0

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(200, type(self).metrics())
        else:
            self._answer(type(self).ready, "")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stream"] is True
        type(self).generations += 1
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
def triton() -> Iterator[tuple[str, type[FakeTriton]]]:
    handler = type("Handler", (FakeTriton,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def outcomes(ok: int, failed: int, model: str = "m") -> str:
    return "".join(
        f'trtbuild_requests_total{{model="{model}",outcome="{name}",version="1"}} {count}\n'
        for name, count in (("rejected", 0), ("failed", failed), ("cancelled", 0), ("ok", ok))
    )
