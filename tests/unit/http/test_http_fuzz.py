"""A short run of what ``tools/fuzz_http.py`` does for long."""

from __future__ import annotations

import random
import socket

import pytest

from tools import fuzz_http


@pytest.mark.parametrize("seed", [1, 2])
def test_mangled_requests_are_answered_or_refused(seed: int, any_loop: None) -> None:
    seen = fuzz_http.fuzz(400, seed)
    assert {"200", "400"} <= seen.keys()
    assert seen.total() == 400


def test_the_tool_notices_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fuzz_http.fault_of(b"HTTP/1.1 500 Internal Server Error\r\n\r\n") == "status 500"
    assert fuzz_http.fault_of(b"nonsense") == "the answer is not HTTP"
    with monkeypatch.context() as patch:
        patch.setattr(fuzz_http, "_PATIENCE_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
            fuzz_http.send(silent.getsockname(), b"x", 0, random.Random(1))
    monkeypatch.setattr(fuzz_http.Model, "describe", lambda self: 1 / 0)
    monkeypatch.setattr(fuzz_http, "mangle", lambda chance: b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    with pytest.raises(RuntimeError, match="request 0 of seed 3"):
        fuzz_http.fuzz(1, 3)
