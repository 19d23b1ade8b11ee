"""The accounting: true ratios while it happens, nothing left behind after it."""

from __future__ import annotations

import random

import pytest
from trtbuild_front.metrics import accounting as accounting_module
from trtbuild_front.metrics.accounting import OUTCOMES, Accounting, Distribution, EngineTimes
from trtbuild_front.metrics.exporter import Exporter


class FakeSeries:
    """A series that refuses what a server would refuse."""

    def __init__(self, kind: str) -> None:
        self.kind, self.value = kind, 0.0

    def increment(self, value: float) -> None:
        assert self.kind == "counter" and value >= 0
        self.value += value

    def set(self, value: float) -> None:
        assert self.kind == "gauge"
        self.value = value


class FakeServer:
    def __init__(self) -> None:
        self.series: dict[tuple[str, tuple[tuple[str, str], ...]], FakeSeries] = {}
        self.exporter = Exporter(self.make, {"model": "m", "version": "1"}, slots=4)

    def make(self, kind: str, name: str, help_text: str, labels: dict[str, str]) -> FakeSeries:
        key = (name, tuple(sorted(labels.items())))
        assert key not in self.series and help_text.endswith(".") and {"model", "version"} <= set(labels)
        return self.series.setdefault(key, FakeSeries(kind))

    def value(self, name: str, **labels: str) -> float:
        return self.series[name, tuple(sorted({"model": "m", "version": "1", **labels}.items()))].value


def test_both_counters_grow_while_nothing_has_finished() -> None:
    accounting = Accounting(0.0)
    first, _ = accounting.arrive(0.0), accounting.arrive(0.0)
    accounting.start(first, 1.0, 7)
    seen = accounting.snapshot(3.0)
    assert (seen.waiting, seen.running, seen.prompt_tokens) == (1, 1, 7)
    assert (seen.queue_s, seen.compute_s) == pytest.approx((2 * 1.0 + 1 * 2.0, 2.0))


def test_an_arrival_does_not_change_what_came_before_it() -> None:
    accounting = Accounting(0.0)
    accounting.start(accounting.arrive(0.0), 0.0, 1)
    accounting.arrive(10.0)
    assert accounting.snapshot(10.0).queue_s == 0
    assert accounting.snapshot(12.0).queue_s == pytest.approx(2.0)


def test_the_bounds_that_the_recording_rules_compute_with_rise() -> None:
    """The rules take quantiles of the buckets: a bound lost, moved or out of order changes every p50 and p95."""
    assert accounting_module.FIRST_TOKEN_BOUNDS_S == (
        0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0
    )  # fmt: skip
    assert accounting_module.INTER_TOKEN_BOUNDS_S == (
        0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5
    )  # fmt: skip
    assert accounting_module.DURATION_BOUNDS_S == (
        0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0
    )  # fmt: skip


def test_idle_is_zero_and_not_absent() -> None:
    server = FakeServer()
    server.exporter.export(Accounting(5.0).snapshot(9.0))
    assert server.value("trtbuild_request_queue_seconds_total") == 0
    assert server.value("trtbuild_request_compute_seconds_total") == 0
    assert server.value("trtbuild_request_slots") == 4
    assert {server.value("trtbuild_requests_total", outcome=outcome) for outcome in OUTCOMES} == {0}
    assert server.value("trtbuild_inter_token_latency_seconds_bucket", le="+Inf") == 0


def test_the_engine_s_own_times_correct_a_request_s_share() -> None:
    accounting = Accounting(0.0)
    account = accounting.arrive(0.0)
    accounting.start(account, 1.0, 1)
    accounting.finish(account, 5.0, "ok", EngineTimes(waited_s=3.0, computed_s=0.9))
    seen = accounting.snapshot(5.0)
    assert seen.queue_s == pytest.approx(1.0 + 3.0)
    assert seen.compute_s == pytest.approx(0.9)


def test_a_correction_downwards_is_a_debt_and_never_a_decrease() -> None:
    accounting = Accounting(0.0)
    account, other = accounting.arrive(0.0), accounting.arrive(0.0)
    accounting.start(account, 0.0, 1)
    accounting.start(other, 0.0, 1)
    before = accounting.snapshot(4.0).compute_s
    accounting.finish(account, 4.0, "ok", EngineTimes(waited_s=3.0, computed_s=1.0))
    assert accounting.snapshot(5.0).compute_s == before == pytest.approx(8.0)
    assert accounting.snapshot(12.0).compute_s == pytest.approx(1.0 + 12.0)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(EngineTimes(waited_s=-5.0, computed_s=-1.0), id="negative"),
        pytest.param(EngineTimes(waited_s=1e9, computed_s=1e9), id="another-clock"),
    ],
)
def test_absurd_engine_times_cannot_take_more_than_the_request_s_share(times: EngineTimes) -> None:
    accounting = Accounting(0.0)
    account = accounting.arrive(0.0)
    accounting.start(account, 0.0, 1)
    accounting.finish(account, 2.0, "ok", times)
    seen = accounting.snapshot(2.0)
    assert 0 <= seen.queue_s <= 2 and 0 <= seen.compute_s <= 2


def test_latencies_are_observed_per_token() -> None:
    accounting = Accounting(0.0)
    account = accounting.arrive(0.0)
    accounting.start(account, 0.1, 1)
    accounting.add_tokens(account, 0.3, 2)
    accounting.add_tokens(account, 0.7, 4)
    accounting.finish(account, 0.7, "ok")
    accounting.add_tokens(account, 0.8, 1)  # too late: the request is over
    seen = accounting.snapshot(1.0)
    assert seen.generation_tokens == 6
    assert (seen.first_token[0]["+Inf"], seen.first_token[1]) == (1, pytest.approx(0.3))
    assert (seen.inter_token[0]["0.1"], seen.inter_token[1]) == (4, pytest.approx(0.4))
    assert (seen.duration[0]["1"], seen.duration[0]["0.5"]) == (1, 0)


def test_only_good_ends_have_a_duration() -> None:
    accounting = Accounting(0.0)
    for outcome in ("failed", "cancelled"):
        accounting.finish(accounting.arrive(0.0), 1.0, outcome)
    assert accounting.snapshot(1.0).duration[0]["+Inf"] == 0


@pytest.mark.parametrize(
    ("value", "first"), [pytest.param(0.1, "0.1", id="on-the-bound"), pytest.param(0.11, "0.5", id="above-it")]
)
def test_buckets_include_their_bound(value: float, first: str) -> None:
    distribution = Distribution((0.1, 0.5))
    distribution.observe(value)
    assert next(le for le, count in distribution.cumulative().items() if count) == first


def _live(accounting: Accounting, random_: random.Random, now_s: float, server: FakeServer) -> float:
    """Let 10,000 requests live in every possible way; return the time at the end."""
    open_accounts = []
    made = 0
    while made < 10_000 or open_accounts:
        now_s += random_.expovariate(1000)
        what = random_.random()
        if what < 0.4 and made < 10_000:
            made += 1
            if random_.random() < 0.1:
                accounting.reject()
            else:
                open_accounts.append(accounting.arrive(now_s))
        elif open_accounts:
            account = random_.choice(open_accounts)
            if what < 0.6:
                accounting.start(account, now_s, random_.randrange(100))
            elif what < 0.8:
                accounting.add_tokens(account, now_s, random_.randrange(5))
            else:
                times = EngineTimes(waited_s=random_.uniform(-1, 2), computed_s=random_.uniform(-1, 2))
                settled = times if random_.random() < 0.5 else None
                accounting.finish(account, now_s, random_.choice(["ok", "cancelled", "failed"]), settled)
                if random_.random() < 0.9:  # the others end a second time later
                    open_accounts.remove(account)
        if random_.random() < 0.01:
            server.exporter.export(accounting.snapshot(now_s), with_distributions=random_.random() < 0.5)
    return now_s


@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_random_lives_leave_nothing_behind(seed: int) -> None:
    accounting, server = Accounting(0.0), FakeServer()
    now_s = _live(accounting, random.Random(seed), 0.0, server)
    server.exporter.export(accounting.snapshot(now_s))
    assert server.value("trtbuild_requests_waiting") == 0
    assert server.value("trtbuild_requests_running") == 0
    assert sum(server.value("trtbuild_requests_total", outcome=outcome) for outcome in OUTCOMES) == 10_000
    counters = {key: series.value for key, series in server.series.items() if series.kind == "counter"}
    server.exporter.export(accounting.snapshot(now_s + 100))
    later = {key: series.value for key, series in server.series.items() if series.kind == "counter"}
    assert counters == later  # idle: nothing grows
    assert len(server.series) < 70  # cardinality is bounded
