"""Waiting, testing and draining against a small HTTP server that answers as Triton does."""

from __future__ import annotations

import socket

import pytest

from tests.unit.serve.conftest import METRICS, FakeTriton, outcomes
from trtbuild.errors import LaunchError
from trtbuild.serve import health
from trtbuild.serve.health import drain, refuse_dead, self_test, wait_ready


def test_waiting_ends_with_the_process_or_the_time() -> None:
    with pytest.raises(LaunchError, match="the server ended .* before it was ready"):
        wait_ready("http://127.0.0.1:9", timeout_s=60, is_alive=lambda: False)
    now = iter(range(0, 1000, 10))
    with pytest.raises(LaunchError, match="was not ready after 25 s"):
        wait_ready("http://127.0.0.1:9", timeout_s=25, clock=lambda: float(next(now)), sleep=lambda _: None)


def test_draining_waits_for_zero_to_last(triton: tuple[str, type[FakeTriton]]) -> None:
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


@pytest.mark.parametrize(
    ("metrics", "model", "generations"),
    [
        pytest.param(outcomes(0, 0), "m", 1, id="nothing-answered-yet"),
        pytest.param(outcomes(5, 0), "m", 0, id="answered-before"),
        pytest.param(outcomes(5, 0), None, 0, id="unnamed-and-answered"),
        pytest.param(outcomes(5, 0) + outcomes(0, 0, "n") + outcomes(0, 0, "o"), None, 2, id="every-unnamed-one"),
        pytest.param(outcomes(5, 0, "other"), "m", 1, id="another-model-does-not-count"),
        pytest.param("", "m", 1, id="no-counters"),
        pytest.param(outcomes(5, 2), "m", 1, id="failures-are-looked-into"),
    ],
)
def test_the_self_test_generates_until_the_server_says_it_has(
    triton: tuple[str, type[FakeTriton]], metrics: str, model: str | None, generations: int
) -> None:
    url, handler = triton
    handler.metrics, handler.pieces = staticmethod(lambda: metrics), ({"text_output": "a"},)
    self_test(url, url, model)
    assert handler.generations == generations


def test_the_self_test_needs_something_to_ask(triton: tuple[str, type[FakeTriton]]) -> None:
    url, handler = triton
    handler.metrics = staticmethod(lambda: "nv_inference_count 5\n")
    with pytest.raises(LaunchError, match="shows no front model"):
        self_test(url, url, None)
    with pytest.raises(LaunchError, match="did not answer"):
        self_test(url, "http://127.0.0.1:9", None)
    handler.pieces = ({"text_output": "a"},)
    self_test(url, "http://127.0.0.1:9", "m")
    assert handler.generations == 1, "without metrics it is asked each time"


@pytest.mark.parametrize(
    ("answer", "is_dead"),
    [
        pytest.param({"error": "Stub process 'tensorrt_llm_0_0' is not healthy."}, True, id="dead"),
        pytest.param({"error": "the queue is full"}, False, id="full"),
        pytest.param({"text_output": "a"}, False, id="answers"),
    ],
)
def test_only_the_server_s_answer_makes_a_model_dead(
    triton: tuple[str, type[FakeTriton]], answer: dict[str, object], is_dead: bool
) -> None:
    url, handler = triton
    handler.pieces = (answer,)
    handler.metrics = staticmethod(lambda: outcomes(5, 0))
    refuse_dead(url, url)
    assert handler.generations == 0, "no request has failed, so no generation is tried"
    handler.metrics = staticmethod(lambda: outcomes(5, 1))
    if is_dead:
        with pytest.raises(LaunchError, match="a model process is dead"):
            refuse_dead(url, url)
    else:
        refuse_dead(url, url)
    assert handler.generations == 1
    refuse_dead(url, "http://127.0.0.1:9")


def engine(up: int, failed_starts: int, model: str = "tensorrt_llm") -> str:
    labels = f'{{model="{model}",version="1"}}'
    return f"trtbuild_engine_up{labels} {up}\ntrtbuild_engine_failed_starts{labels} {failed_starts}\n"


@pytest.mark.parametrize(
    ("metrics", "is_ready", "is_live"),
    [
        pytest.param(engine(1, 0), True, True, id="runs"),
        pytest.param(engine(0, 0), False, True, id="is-started-again"),
        pytest.param(engine(0, 2), False, True, id="failed-twice"),
        pytest.param(engine(0, 3), False, False, id="failed-three-times"),
        pytest.param(engine(1, 0) + engine(0, 5, "n-tensorrt_llm"), False, False, id="another-engine"),
    ],
)
def test_an_engine_process_that_has_gone_is_seen_without_a_request(
    triton: tuple[str, type[FakeTriton]], metrics: str, is_ready: bool, is_live: bool
) -> None:
    url, handler = triton
    handler.metrics = staticmethod(lambda: outcomes(5, 0) + metrics)
    if is_ready:
        self_test(url, url, "m")
    else:
        with pytest.raises(LaunchError, match="tensorrt_llm' has ended and is being started again"):
            self_test(url, url, "m")
    if is_live:
        refuse_dead(url, url)
    else:
        with pytest.raises(LaunchError, match="could not be started again, [35] times in a row"):
            refuse_dead(url, url)
    assert handler.generations == 0


def test_what_a_dead_model_process_holds_is_not_waited_for(
    triton: tuple[str, type[FakeTriton]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = triton
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    asked: list[str] = []

    def dead(address: str) -> list[int]:
        asked.append(address)
        return [8]

    monkeypatch.setattr(health, "dead_model_processes", dead)
    assert drain(url, timeout_s=60, settle_s=5, clock=lambda: now[0], sleep=sleep) == 11
    assert 5 <= now[0] < 60
    assert set(asked) == {url}


def test_a_server_too_busy_to_answer_is_not_drained() -> None:
    """It listens and says nothing, as one does that has no time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        now = [0.0]

        def clock() -> float:
            now[0] += 1.0
            return now[0]

        read = health.read_metrics
        asked = []

        def impatient(url: str, *, timeout_s: float) -> str:
            asked.append(url)
            return read(url, timeout_s=0.05)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(health, "read_metrics", impatient)
            drain(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=20, clock=clock, sleep=lambda _: None)
        assert len(asked) > 3
        assert now[0] >= 20, "it waited to the end"
