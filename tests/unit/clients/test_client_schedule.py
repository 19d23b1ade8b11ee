"""When requests are due, and what they say: pure, repeatable, and distributed as asked."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trtbuild.errors import SpecError
from trtclient.load.schedule import Arrival, open_loop, read_trace, time_of_count
from trtclient.load.workload import Prompt, Workload, read_prompts
from trtclient.values import Lengths, Phase, parse_rate

rates = st.floats(0, 50)
phases = st.lists(
    st.builds(lambda a, b, d: Phase(rate_from=a, rate_to=b, duration_s=d), rates, rates, st.floats(0.01, 20)),
    min_size=1,
    max_size=4,
).filter(lambda found: sum(p.count for p in found) > 0.1)


@settings(max_examples=60)
@given(phases, st.sampled_from(["constant", "poisson", "bursty"]), st.integers(0, 99))
@example([Phase(rate_from=0.0, rate_to=48.0, duration_s=4.5)], "bursty", 49)
def test_arrivals_are_in_order_inside_the_run_and_repeatable(found: list[Phase], process: str, seed: int) -> None:
    arrivals = open_loop(found, process, seed, limit=500)
    times = [arrival.due_s for arrival in arrivals]
    assert times == sorted(times)
    assert [arrival.index for arrival in arrivals] == list(range(len(arrivals)))
    assert all(0 <= time <= sum(p.duration_s for p in found) + 1e-6 for time in times)
    assert arrivals == open_loop(found, process, seed, limit=500)


@given(phases, st.floats(0, 0.999))
@example([Phase(rate_from=1e-187, rate_to=1e-187, duration_s=1.0), Phase(rate_from=0, rate_to=1, duration_s=1)], 1e-187)
def test_the_inverse_of_the_expected_count(found: list[Phase], share: float) -> None:
    """The area under the rate up to the returned time is the count."""
    count = share * sum(p.count for p in found)
    at_s = time_of_count(found, count)
    assert at_s is not None
    area, left = 0.0, at_s
    for p in found:
        t = min(left, p.duration_s)
        area += p.rate_from * t + (p.rate_to - p.rate_from) / p.duration_s * t * t / 2
        left -= t
    assert area == pytest.approx(count, rel=1e-6, abs=1e-6)


def test_constant() -> None:
    assert [a.due_s for a in open_loop(parse_rate("4", 1), "constant", 0)] == pytest.approx([0, 0.25, 0.5, 0.75])


def test_a_ramp_speeds_up() -> None:
    arrivals = open_loop(parse_rate("0..20", 10), "constant", 0)
    assert len(arrivals) == 100
    assert sum(a.due_s < 5 for a in arrivals) == 25


@pytest.mark.parametrize(
    ("process", "burstiness", "variation"),
    [pytest.param("poisson", 1.0, 1.0, id="poisson"), pytest.param("bursty", 3.0, 3.0, id="bursty"),
     pytest.param("bursty", 0.5, 0.5, id="calm")],
)  # fmt: skip
def test_the_gaps_vary_as_asked(process: str, burstiness: float, variation: float) -> None:
    times = [a.due_s for a in open_loop(parse_rate("100", 200), process, 7, burstiness=burstiness)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.01, rel=0.1)
    assert statistics.pstdev(gaps) / statistics.fmean(gaps) == pytest.approx(variation, rel=0.1)


def test_another_seed_is_another_schedule_and_a_limit_limits() -> None:
    rate = parse_rate("5", 10)
    assert open_loop(rate, "poisson", 1) != open_loop(rate, "poisson", 2)
    assert open_loop(rate, "poisson", 1, limit=3) == open_loop(rate, "poisson", 1)[:3]


def test_traces(tmp_path: Path) -> None:
    jsonl = tmp_path / "t.jsonl"
    jsonl.write_text('{"timestamp": 2500, "input_length": 9, "output_length": 4}\n\n{"timestamp": 1500}\n')
    assert read_trace(jsonl, speed=2) == [
        Arrival(index=0, due_s=0.0),
        Arrival(index=1, due_s=0.5, prompt_tokens=9, max_tokens=4),
    ]
    csv = tmp_path / "t.csv"
    csv.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    first, second = read_trace(csv)
    assert (first.due_s, first.prompt_tokens, first.max_tokens) == (0.0, 374, 44)
    assert second.due_s == pytest.approx(4.314579, abs=1e-5)
    jsonl.write_text('{"at_s": 3}\n{"at_s": 4}\n{"at_s": 5}\n')
    assert [a.due_s for a in read_trace(jsonl, limit=2)] == [0, 1]


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", "nonsense\n", '{"at_s": "x"}\n'])
def test_no_traces(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"t\.jsonl"):
        read_trace(path)


def test_requests_are_a_function_of_seed_and_number() -> None:
    workload = Workload(prompt_tokens=Lengths(shape="uniform", a=10, b=90), tokens_per_word=2.0, seed=3)
    texts = [workload.request(Arrival(index=i, due_s=0)).text for i in range(20)]
    assert texts == [workload.request(Arrival(index=i, due_s=9.0)).text for i in range(20)]
    assert len(set(texts)) == 20
    assert all(text is not None and 5 <= len(text.split()) <= 45 for text in texts)


def test_lengths_come_from_the_trace_then_the_prompt_then_the_distribution() -> None:
    workload = Workload(prompts=(Prompt(text="a", max_tokens=5), Prompt(text="b")), is_length_forced=True)
    ask = [workload.request(Arrival(index=i, due_s=0, max_tokens=m)) for i, m in ((0, 9), (0, None), (1, None))]
    assert [request.max_tokens for request in ask] == [9, 5, 64]
    assert [request.parameters["min_tokens"] for request in ask] == [9, 5, 64]
    assert [request.text for request in ask] == ["a", "a", "b"]


def test_prompt_files(tmp_path: Path) -> None:
    plain, rows = tmp_path / "p.txt", tmp_path / "p.jsonl"
    plain.write_text("one\n\ntwo\n")
    rows.write_text('{"prompt": "x", "max_tokens": 4}\n{"messages": [{"role": "user", "content": "y"}]}\n')
    assert [p.text for p in read_prompts(plain)] == ["one", "two"]
    assert read_prompts(rows) == (
        Prompt(text="x", max_tokens=4),
        Prompt(messages=({"role": "user", "content": "y"},)),
    )
    for text, why in (("", "no prompt"), ('{"a": 1}\n', "line 1: expected text or messages"), ("[]\n", "line 1")):
        rows.write_text(text)
        with pytest.raises(SpecError, match=why):
            read_prompts(rows)
