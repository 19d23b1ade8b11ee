"""The small languages of the command line."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.errors import SpecError
from trtclient import values
from trtclient.values import Goal, Lengths, Phase


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("250ms", 0.25, id="ms"),
        pytest.param("30s", 30, id="s"),
        pytest.param("1.5m", 90, id="m"),
        pytest.param("2h", 7200, id="h"),
        pytest.param("7", 7, id="bare"),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1 s", "five"])
def test_no_durations(text: str) -> None:
    with pytest.raises(SpecError, match="expected a duration"):
        values.parse_duration(text)


def phase(low: float, high: float, seconds: float) -> Phase:
    return Phase(rate_from=low, rate_to=high, duration_s=seconds)


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        pytest.param("5", [phase(5, 5, 10)], id="constant"),
        pytest.param("2..20", [phase(2, 20, 10)], id="ramp"),
        pytest.param("3@1m", [phase(3, 3, 60)], id="own-duration"),
        pytest.param("2@30s,2..20@1m,20@2m", [phase(2, 2, 30), phase(2, 20, 60), phase(20, 20, 120)], id="phases"),
        pytest.param("0@5s,4@5s", [phase(0, 0, 5), phase(4, 4, 5)], id="pause"),
    ],
)
def test_rates(text: str, phases: list[Phase]) -> None:
    assert values.parse_rate(text, 10) == tuple(phases)


@pytest.mark.parametrize("text", ["", "-1", "2...3", "5,6", "0", "x@3s", "4@0s"])
def test_no_rates(text: str) -> None:
    with pytest.raises(SpecError, match="rate"):
        values.parse_rate(text, 10)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        pytest.param("128", Lengths(shape="fixed", a=128), id="fixed"),
        pytest.param("64..256", Lengths(shape="uniform", a=64, b=256), id="uniform"),
        pytest.param("normal:128,32", Lengths(shape="normal", a=128, b=32), id="normal"),
        pytest.param("lognormal:128,0.6", Lengths(shape="lognormal", a=128, b=0.6), id="lognormal"),
    ],
)
def test_lengths(text: str, lengths: Lengths) -> None:
    assert values.parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["0", "-3", "9..3", "0..3", "normal:1", "gauss:1,2", "1.5"])
def test_no_lengths(text: str) -> None:
    with pytest.raises(SpecError, match="number of tokens"):
        values.parse_lengths(text)


@given(st.sampled_from(["7", "3..9", "normal:2,50", "lognormal:3,2"]), st.integers())
def test_a_length_is_at_least_one(text: str, seed: int) -> None:
    assert values.parse_lengths(text).draw(random.Random(seed)) >= 1


def test_lengths_are_distributed_as_asked() -> None:
    source = random.Random(1)
    drawn = sorted(values.parse_lengths("lognormal:100,0.5").draw(source) for _ in range(4000))
    assert drawn[2000] == pytest.approx(100, rel=0.05)
    uniform = {values.parse_lengths("3..6").draw(source) for _ in range(200)}
    assert uniform == {3, 4, 5, 6}


def test_goals() -> None:
    assert values.parse_goal("ttft=500ms, e2e=10s") == Goal(ttft_s=0.5, e2e_s=10)
    assert not Goal()
    for text in ("ttft", "itl=1s", ""):
        with pytest.raises(SpecError, match="expected a goal"):
            values.parse_goal(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        pytest.param("temperature=0.7", ("temperature", 0.7), id="number"),
        pytest.param('stop_words=["\\n"]', ("stop_words", ["\n"]), id="list"),
        pytest.param("mode=fast", ("mode", "fast"), id="text"),
        pytest.param("a=b=c", ("a", "b=c"), id="two-equal-signs"),
    ],
)
def test_parameters(text: str, pair: tuple[str, object]) -> None:
    assert values.parse_parameter(text) == pair


def test_no_parameter() -> None:
    with pytest.raises(SpecError, match="NAME=VALUE"):
        values.parse_parameter("temperature")


def test_shards() -> None:
    assert values.parse_shard("3/4") == (3, 4)
    for text in ("4/4", "1", "-1/2", "0/0"):
        with pytest.raises(SpecError, match="INDEX/COUNT"):
            values.parse_shard(text)
