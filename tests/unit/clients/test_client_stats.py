"""From records to numbers to reports."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtclient.load import page, report, stats, svg
from trtclient.load.record import Record
from trtclient.load.sender import RunState
from trtclient.values import Goal


def record(
    index: int, due: float, arrivals: list[float], *, end: float = 0.0, failure: str = "", tokens: int = 0
) -> Record:
    return Record(
        index=index, due_s=due, sent_s=due + 0.1, end_s=end or arrivals[-1], arrivals=array("d", arrivals),
        prompt_tokens=5, completion_tokens=tokens or len(arrivals), is_counted=True, failure=failure,
        message="went <wrong> & so" if failure else "",
    )  # fmt: skip


STATE = RunState(
    records=[
        record(0, 0.0, [0.5, 0.6, 0.8]),
        record(1, 1.0, [3.0, 3.1], tokens=6),
        record(2, 1.5, [1.75], end=2.0, failure="disconnected"),
        record(3, 2.0, [2.25]),
    ]
)


@pytest.mark.parametrize(
    ("quantile", "value"), [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4), (0.99, 4), (1.0, 4)]
)
def test_percentiles_are_nearest_ranks(quantile: float, value: float) -> None:
    assert stats.percentile([1, 2, 3, 4], quantile) == value


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_bounds_its_share(values: list[float], quantile: float) -> None:
    ordered = sorted(values)
    found = stats.percentile(ordered, quantile)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= quantile * len(ordered) - 1e-9


def test_latencies_count_from_the_due_time() -> None:
    one = STATE.records[1]
    assert one.ttft_s == 2.0
    assert one.lag_s == pytest.approx(0.1)
    assert one.e2e_s == pytest.approx(2.1)
    assert one.tpot_s == pytest.approx(0.1 / 5)
    assert STATE.records[3].tpot_s is None
    assert Record(index=0, due_s=1.0, end_s=3.0).ttft_s == 2.0, "an answer without text"


def test_a_summary_counts_every_request() -> None:
    summary = stats.summarize(STATE, goal=Goal(ttft_s=0.6))
    assert (summary.requests, summary.ok, summary.failures) == (4, 3, {"disconnected": 1})
    assert summary.elapsed_s == pytest.approx(3.1)
    assert (summary.prompt_tokens, summary.completion_tokens) == (15, 10)
    assert summary.tokens_per_s == pytest.approx(10 / 3.1)
    assert (summary.good, summary.goal) == (2, {"ttft_s": 0.6})
    assert summary.good_per_s == pytest.approx(2 / 3.1)
    assert (summary.ttft.count, summary.ttft.high) == (3, 2.0)
    assert summary.itl.count == 3
    assert summary.peak_in_flight == 2, "one overlaps with two, then with three"
    assert summary.lag.count == 4


def test_the_warm_up_is_left_out_but_drawn() -> None:
    summary = stats.summarize(STATE, goal=Goal(), warmup_s=1.5)
    assert (summary.requests, summary.ok) == (2, 1)
    assert summary.elapsed_s == pytest.approx(0.75)
    assert sum(bucket.due for bucket in summary.series) == 4


def test_an_empty_run() -> None:
    summary = stats.summarize(RunState(), goal=Goal(ttft_s=1))
    assert (summary.requests, summary.good, summary.ttft.count) == (0, 0, 0)
    assert "0 of 0 requests" in report.as_table(summary)
    assert "no values" in page.render(summary, [], {})


@pytest.mark.parametrize(
    ("goal", "good"),
    [
        pytest.param(Goal(), 3, id="none"),
        pytest.param(Goal(gap_s=0.15), 2, id="gap"),
        pytest.param(Goal(tpot_s=0.05), 2, id="tpot"),
        pytest.param(Goal(e2e_s=1.0), 2, id="e2e"),
        pytest.param(Goal(ttft_s=0.3, e2e_s=1.0), 1, id="both"),
    ],
)
def test_goals(goal: Goal, good: int) -> None:
    assert sum(stats.is_good(one, goal) for one in STATE.records) == good


@given(st.lists(st.tuples(st.floats(0, 30), st.lists(st.floats(0, 5), min_size=1, max_size=6)), max_size=30),
       st.sampled_from([0.1, 1.0, 7.0]))  # fmt: skip
def test_slices_lose_nothing(found: list[tuple[float, list[float]]], width_s: float) -> None:
    records = []
    for index, (due, waits) in enumerate(found):
        times = [due + sum(waits[: i + 1]) for i in range(len(waits))]
        records.append(record(index, due, times, tokens=2 * len(times), end=times[-1] + 0.2))
    buckets = stats.series(records, width_s)
    assert sum(bucket.due for bucket in buckets) == len(records)
    assert sum(bucket.done for bucket in buckets) == len(records)
    assert sum(bucket.tokens for bucket in buckets) == pytest.approx(sum(r.completion_tokens for r in records))
    open_s = sum(bucket.in_flight for bucket in buckets) * width_s
    assert open_s == pytest.approx(sum(r.end_s - r.sent_s for r in records), abs=1e-6)


def test_reports_agree() -> None:
    summary = stats.summarize(STATE, goal=Goal(ttft_s=0.6))
    document = json.loads(report.as_json(summary, {"rate": "5"}))
    assert document["settings"] == {"rate": "5"}
    assert document["summary"]["ttft"]["quantiles"]["p50"] == 0.5
    rows = list(csv.DictReader(io.StringIO(report.as_csv(STATE.records))))
    assert [row["failure"] for row in rows] == ["", "", "disconnected", ""]
    assert [float(row["e2e_s"]) for row in rows] == pytest.approx([0.8, 2.1, 0.5, 0.25])
    assert rows[2]["message"] == "went <wrong> & so"
    table = report.as_table(summary)
    assert "3 of 4 requests answered" in table
    assert "2 met it (50.0%)" in table
    assert "failed, disconnected: 1, e.g. went <wrong> & so" in table


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    summary = stats.summarize(STATE, goal=Goal(ttft_s=0.6))
    text = page.render(summary, STATE.records, {"url": "http://h/<x>", "model": "m & m"})
    assert "<x>" not in text
    assert "m &amp; m" in text
    assert "went &lt;wrong&gt; &amp; so" in text
    assert not re.search(r"""(src|href)=|url\(|@import""", text), "nothing is loaded"
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 6
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert root.findall(".//path") or root.findall(".//circle")
        numbers = [float(n) for path in root.iter("path") for n in re.findall(r"-?\d+\.?\d*", path.get("d") or "")]
        assert all(0 <= number <= svg.WIDTH for number in numbers)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(0, 10, [0, 2, 4, 6, 8, 10], id="ten"),
        pytest.param(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1], id="one"),
        pytest.param(3, 3, [3], id="flat"),
        pytest.param(0, 0.0012, [0, 0.00025, 0.0005, 0.00075, 0.001], id="small"),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert svg.ticks(low, high) == pytest.approx(expected)


def test_log_ticks() -> None:
    assert svg.log_ticks(0.002, 0.3) == pytest.approx([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
    assert svg.log_ticks(1e-6, 10) == pytest.approx([10.0**n for n in range(-6, 2)])
