"""Single questions to a small HTTP server that answers as Triton does."""

from __future__ import annotations

import pytest

from tests.unit.serve.conftest import METRICS, FakeTriton, outcomes
from trtbuild.errors import LaunchError
from trtbuild.serve.probes import count_in_flight, count_outcomes, generate, is_up, probe_generation


def test_up_and_not(triton: tuple[str, type[FakeTriton]]) -> None:
    url, handler = triton
    assert is_up(url)
    handler.ready = 400
    assert not is_up(url)
    assert not is_up("http://127.0.0.1:9", timeout_s=0.5)


def test_generation_yields_pieces_and_turns_errors_into_ours(triton: tuple[str, type[FakeTriton]]) -> None:
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


def test_outcomes_are_counted_by_model() -> None:
    text = "# TYPE trtbuild_requests_total counter\n" + outcomes(2, 1) + outcomes(0, 0, "other")
    assert count_outcomes(text)["m"] == {"rejected": 0, "failed": 1, "cancelled": 0, "ok": 2}
    assert count_outcomes(text)["other"]["ok"] == 0
    assert count_outcomes("nv_inference_count 5\n") == {}
