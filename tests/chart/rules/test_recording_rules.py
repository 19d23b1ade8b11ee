"""The recording rules, in every state a pod can be in, evaluated by Prometheus itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.chart.rules.promtest import RULES, Case, labels, promtool, run_case, sku_labels

FRONT = RULES / "recording.yaml"
ENSEMBLE = RULES / "recording-upstream-ensemble.yaml"
CPP = RULES / "recording-cpp-gauges.yaml"
MODEL = {"model": "m", "version": "1"}

SIGNALS = (
    "triton:waiting:requests",
    "triton:running:requests",
    "triton:occupancy:ratio",
    "triton:queue_compute:ratio",
    "triton:demand:ratio",
    "triton:demand_by_cost:ratio",
)
AVERAGES = ("triton:queue_duration:average", "triton:compute_duration:average", "triton:request_duration:average")
QUANTILES = ("triton:time_to_first_token:p50_seconds", "triton:time_to_first_token:p95_seconds")


def half_busy_demand(k: float) -> float:
    """Demand of a pod with half of its slots busy."""
    return 0.5 * (1 + k) / (1 + 0.5 * k)


def front_pod(
    case: Case,
    *,
    queue: str | float = 0,
    compute: str | float = 0,
    waiting: str | float = 0,
    running: str | float = 0,
    slots: str | float | None = 64,
    ok: str | float = 0,
    up: str | float = 1,
    pod: str = "p",
    sku: str = "a",
) -> Case:
    """Add one pod's series as the front model exports them."""
    case.add("up", up, pod, sku, job="j")
    if slots is not None:
        case.add("trtbuild_request_slots", slots, pod, sku, **MODEL)
    case.add("trtbuild_request_queue_seconds_total", queue, pod, sku, **MODEL)
    case.add("trtbuild_request_compute_seconds_total", compute, pod, sku, **MODEL)
    case.add("trtbuild_requests_waiting", waiting, pod, sku, **MODEL)
    case.add("trtbuild_requests_running", running, pod, sku, **MODEL)
    for outcome in ("ok", "cancelled", "failed", "rejected"):
        case.add("trtbuild_requests_total", ok if outcome == "ok" else 0, pod, sku, outcome=outcome, **MODEL)
    return case


def engine_gauges(case: Case, *, scheduled: str | float, waiting: str | float, most: str | float) -> Case:
    """Add the gauges of the C++ backend."""
    for kind, value in (("scheduled", scheduled), ("waiting", waiting), ("max", most), ("active", scheduled)):
        case.add("nv_trt_llm_request_metrics", value, model="tensorrt_llm", version="1", request_type=kind)
    return case


def first_tokens(case: Case, values: tuple[str | float, str | float, str | float], pod: str = "p") -> Case:
    """Add the buckets of the time to first token at 0.1 s, 1 s and beyond."""
    for bound, value in zip(("0.1", "1", "+Inf"), values, strict=True):
        case.add("trtbuild_time_to_first_token_seconds_bucket", value, pod, le=bound, **MODEL)
    return case


def sku_constants(case: Case, sku: str, **values: float) -> Case:
    """Add the constants that the chart renders per SKU."""
    for name, value in values.items():
        case.raw(f"trtbuild_sku_{name}" + sku_labels(sku, deployment=f"d-{sku}"), value)
    return case


def idle() -> Case:
    case = first_tokens(front_pod(Case()), (0, 0, 0))
    for metric in (*SIGNALS, *AVERAGES, *QUANTILES):
        case.pods(metric, 60, {"p": 0})
    for metric in ("triton:sku_demand:pods", "triton:sku_errors:ratio", "triton:sku_rejected:ratio"):
        case.skus(metric, 60, {"a": 0})
    return case


def warming() -> Case:
    case = Case().add("up", 1, job="j")
    for metric in (*SIGNALS, *AVERAGES, *QUANTILES):
        case.pods(metric, 60, {"p": 0})
    return case


def unscraped() -> Case:
    case = Case().add("up", 0, job="j")
    for metric in (*SIGNALS, *AVERAGES, *QUANTILES):
        case.pods(metric, 60, {})
    return case


def first_scrape() -> Case:
    """There is no rate yet, of a new pod or of all pods after Prometheus was away: the gauges still show a queue."""
    case = front_pod(Case(), queue="10 _x9", compute="90 _x9", waiting="64 _x9", running="64 _x9", slots="64 _x9")
    for metric in ("triton:waiting:requests", "triton:running:requests", "triton:queue_compute:ratio"):
        case.pods(metric, 0, {"p": 0})
    return case.pods("triton:usable_slots:requests", 0, {"p": 64}).pods("triton:demand:ratio", 0, {"p": 2})


def half_busy() -> Case:
    case = front_pod(Case(), compute="0+160x40", running=32)
    case.pods("triton:occupancy:ratio", 120, {"p": 0.5}).pods("triton:queue_compute:ratio", 120, {"p": 0})
    return case.pods("triton:demand:ratio", 180, {"p": half_busy_demand(1.4)})


def batching_factor_per_sku() -> Case:
    case = front_pod(Case(), compute="0+160x40", running=32)
    front_pod(case, compute="0+160x40", running=32, pod="q", sku="b")
    sku_constants(case, "b", batching_factor=0.25)
    return case.pods("triton:demand:ratio", 180, {"p": half_busy_demand(1.4), "q/b": half_busy_demand(0.25)})


def saturated() -> Case:
    case = front_pod(Case(), queue="0+320x40", compute="0+320x40", waiting=64, running=64)
    case.pods("triton:queue_compute:ratio", 120, {"p": 1}).pods("triton:occupancy:ratio", 120, {"p": 2})
    return case.pods("triton:demand:ratio", 120, {"p": 2}).skus("triton:sku_queue_compute:ratio", 120, {"a": 1})


def a_step_is_seen_at_the_next_scrape() -> Case:
    """At rest for two minutes, then 64 run and 128 wait: three pods' worth, in the same rule cycle as the scrape."""
    case = front_pod(
        Case(), queue="0x24 640+640x9", compute="0x24 320+320x9", waiting="0x24 128x9", running="0x24 64x9"
    )
    case.pods("triton:demand:ratio", 120, {"p": 0}).pods("triton:demand:ratio", 125, {"p": 3})
    return case.pods("triton:occupancy:ratio", 125, {"p": 0.5})


def no_queue_no_haste() -> Case:
    """Occupancy jumps from 0.25 to 0.75 without a queue: two minutes of smoothing, k 1.4."""
    case = front_pod(Case(), compute="0+80x40 3440+240x40", running="16x40 48x40")
    u = 0.25 * 2.4 / (1 + 1.4 * 0.25)
    case.pods("triton:demand:ratio", 200, {"p": u})
    end = 0.75 * 2.4 / (1 + 1.4 * 0.75)
    return case.pods("triton:demand:ratio", 375, {"p": end})


def a_short_queue_is_smoothed() -> Case:
    """With half as many waiting as slots the pod is full, and no more: random arrivals make such queues."""
    case = front_pod(Case(), queue="0+160x40", compute="0+320x40", waiting="0 32" + " 32" * 38, running=64)
    return case.pods("triton:occupancy:ratio", 120, {"p": 1.5}).pods("triton:demand:ratio", 180, {"p": 1})


def a_drained_queue_is_forgotten() -> Case:
    """After the queue is gone the smoothed part is at most 1 and falls from then on, whatever the queue was."""
    case = front_pod(
        Case(), queue="0+3200x24 76800x9", compute="0+320x24 8000+320x9", waiting="640x24 0x9", running="64x34"
    )
    return case.pods("triton:demand:ratio", 115, {"p": 4.5}).pods("triton:demand:ratio", 130, {"p": 1})


def kv_cache_is_the_limit() -> Case:
    """32 inside of 64 slots, 20 computed: the engine's own gauges know, and so do the settled counters."""
    case = front_pod(Case(), queue="0+60x40", compute="0+100x40", running=32)
    engine_gauges(case, scheduled=20, waiting=12, most=64)
    case.pods("triton:usable_slots:requests", 120, {"p": 20}).pods("triton:queue_compute:ratio", 120, {"p": 0.6})
    return case.pods("triton:occupancy:ratio", 120, {"p": 1.6}).pods("triton:demand:ratio", 120, {"p": 1.6})


def kv_cache_is_the_limit_from_the_first_scrape() -> Case:
    case = front_pod(Case(), queue="10+60x9", compute="90+100x9", running=40)
    engine_gauges(case, scheduled=20, waiting=20, most=64)
    for at_s in (0, 5, 10):
        case.pods("triton:usable_slots:requests", at_s, {"p": 20}).pods("triton:demand:ratio", at_s, {"p": 2})
    return case


def a_queue_at_the_door_is_not_the_kv_cache() -> Case:
    """In every state since its first scrape: full, and half as many again wait in line."""
    case = front_pod(Case(), queue="10+160x9", compute="90+320x9", waiting=32, running=64)
    engine_gauges(case, scheduled=64, waiting=0, most=64)
    for at_s in (0, 5, 10, 20, 40):
        case.pods("triton:usable_slots:requests", at_s, {"p": 64}).expect("triton:demand:ratio > 1", at_s, {})
    return case


def short_waits_are_not_saturation() -> Case:
    case = front_pod(Case(), queue="0+10x40", compute="0+100x40", running=22)
    engine_gauges(case, scheduled=20, waiting=" ".join(["0 4"] * 20), most=64)
    return case.pods("triton:usable_slots:requests", 90, {"p": 64}).pods("triton:occupancy:ratio", 90, {"p": 22 / 64})


def stuck_engine_stays_finite() -> Case:
    """What waits is the work, over the slots: as many as would fill the pod ask for one more, not for the cap."""
    case = front_pod(Case(), queue="0+250x40", waiting=50)
    front_pod(case, queue="0+5000x40", waiting=1000, pod="q")
    case.pods("triton:queue_compute:ratio", 120, {"p": 5000, "q": 100000})
    case.pods("triton:occupancy:ratio", 120, {"p": 50 / 64, "q": 1000 / 64})
    b = 50 / 64
    case.pods("triton:demand:ratio", 180, {"p": b * 2.4 / (1 + 1.4 * b), "q": 4.5})
    return case.pods("triton:queue_duration:average", 120, {"p": 3000, "q": 60000})


def restart() -> Case:
    case = front_pod(
        Case(),
        queue="5000+320x11 0+320x20",
        compute="9000+320x11 0+320x20",
        waiting=64,
        running=64,
        ok="70+5x11 0+5x20",
    )
    for at_s in (55, 60, 65, 80):
        case.pods("triton:queue_compute:ratio", at_s, {"p": 1})
    # 4 of the 5 steps in the window are seen, the fifth is the reset: never above the truth of 64.
    return case.pods("triton:waiting:requests", 65, {"p": 53.333}).pods(
        "triton:queue_duration:average", 120, {"p": 59.077}
    )


def two_scrapes_missed() -> Case:
    gap = "x9 _ _ "
    case = front_pod(
        Case(),
        queue=f"0+160{gap}1920+160x20",
        compute=f"0+320{gap}3840+320x20",
        waiting="32x9 stale _ 32x20",
        running="64x9 stale _ 64x20",
        slots="64x9 stale _ 64x20",
        up="1x9 0 0 1x20",
    )
    for at_s in (50, 55, 60, 90):
        case.pods("triton:queue_compute:ratio", at_s, {"p": 0.5})
        case.expect("count(triton:demand:ratio)", at_s, {"{}": 1})
    return case.pods("triton:usable_slots:requests", 50, {"p": 64})


def scrape_missed_with_room() -> Case:
    gap = "x9 stale "
    case = front_pod(
        Case(),
        queue=f"0{gap}0x20",
        compute="0+160x9 _ 1760+160x20",
        waiting=f"0{gap}0x20",
        running=f"32{gap}32x20",
        slots=f"64{gap}64x20",
        up="1x9 0 1x20",
    )
    return case.pods("triton:occupancy:ratio", 50, {"p": 0.5}).pods("triton:occupancy:ratio", 55, {"p": 0.5})


def pod_gone() -> Case:
    case = front_pod(
        Case(),
        queue="0+160x9 stale",
        compute="0+320x9 stale",
        waiting="32x9 stale",
        running="64x9 stale",
        slots="64x9 stale",
        ok="0+1x9 stale",
        up="1x9 stale",
    )
    return case.pods("triton:demand:ratio", 90, {}).pods("triton:queue_duration:average", 180, {})


def slots_unknown() -> Case:
    case = front_pod(Case(), queue="0+50x40", compute="0+100x40", waiting=10, running=20, slots=None)
    return case.pods("triton:occupancy:ratio", 120, {"p": 1.5})


def two_models_are_one_series() -> Case:
    case = front_pod(Case(), queue="0+10x40", compute="0+50x40", waiting=2, running=10, slots=16)
    other = {"model": "m2", "version": "1"}
    case.add("trtbuild_request_queue_seconds_total", "0+10x40", **other)
    case.add("trtbuild_request_compute_seconds_total", "0+30x40", **other)
    case.add("trtbuild_request_slots", 16, **other).add("trtbuild_requests_waiting", 0, **other)
    case.pods("triton:waiting:requests", 120, {"p": 4}).pods("triton:running:requests", 120, {"p": 16})
    return case.pods("triton:queue_compute:ratio", 120, {"p": 0.25})


def averages_below_one_request_a_second() -> Case:
    # 0.12 requests per second of 0.5 s each, a fifth of it waiting.
    case = front_pod(Case(), queue="0+0.06x40", compute="0+0.24x40", ok="0+0.6x40")
    case.pods("triton:queue_duration:average", 120, {"p": 0.1}).pods("triton:compute_duration:average", 120, {"p": 0.4})
    return case.pods("triton:request_duration:average", 120, {"p": 0.5})


def first_token_quantiles() -> Case:
    case = first_tokens(front_pod(Case(), compute="0+10x40", running=2), ("0+10x40", "0+20x40", "0+20x40"))
    first_tokens(front_pod(case, pod="q"), (0, 0, 0), pod="q")
    case.pods("triton:time_to_first_token:p50_seconds", 120, {"p": 0.1, "q": 0})
    return case.pods("triton:time_to_first_token:p95_seconds", 120, {"p": 0.91, "q": 0})


def a_sku_is_the_sum_of_its_pods() -> Case:
    case = Case()
    for pod in ("p", "q"):
        front_pod(case, queue="0+320x40", compute="0+320x40", waiting=64, running=64, pod=pod)
    return case.add("up", 0, "z", job="j").skus("triton:sku_demand:pods", 120, {"a": 4})


def two_skus(dear_waits: bool) -> Case:
    """Two cheap pods of weight 1 (at most 4), one dear pod of weight 2 (at least 1); k 0 keeps the numbers plain."""
    case = Case()
    for pod in ("p", "q"):
        front_pod(case, compute="0+160x40", running=32, pod=pod)
    if dear_waits:
        front_pod(case, queue="0+320x40", compute="0+320x40", waiting=64, running=64, pod="z", sku="b")
    else:
        front_pod(case, compute="0+160x40", running=32, pod="z", sku="b")
    sku_constants(case, "a", weight=1, target=0.8, capacity_before=2, batching_factor=0)
    return sku_constants(case, "b", weight=2, target=0.8, capacity_before=4, batching_factor=0)


def cheap_first() -> Case:
    # Work is 0.5 + 0.5 + 2 x 0.5 = 2 pods of weight 1. The dear SKU's minimum takes 1.6 of it, the cheap pods 0.4 / 2.
    case = two_skus(dear_waits=False)
    case.expect("round(triton:release_demand:capacity, 0.001)", 180, {'{namespace="n", release="r"}': 2})
    return case.pods("triton:demand_by_cost:ratio", 180, {"p": 0.2, "q": 0.2, "z/b": 0})


def cheap_first_never_hides_a_queue() -> Case:
    case = two_skus(dear_waits=True)
    return case.pods("triton:demand_by_cost:ratio", 180, {"p": 1.7, "q": 1.7, "z/b": 2})


def errors_and_rejections() -> Case:
    case = front_pod(Case(), ok="0+8x80")
    case.add("trtbuild_requests_total", "0+2x80", "q", outcome="failed", **MODEL)
    case.add("trtbuild_requests_total", "0+10x80", "q", outcome="rejected", **MODEL)
    return case.skus("triton:sku_errors:ratio", 360, {"a": 0.1}).skus("triton:sku_rejected:ratio", 360, {"a": 0.5})


FRONT_CASES = (
    idle,
    warming,
    unscraped,
    first_scrape,
    half_busy,
    batching_factor_per_sku,
    saturated,
    a_step_is_seen_at_the_next_scrape,
    no_queue_no_haste,
    a_short_queue_is_smoothed,
    a_drained_queue_is_forgotten,
    kv_cache_is_the_limit,
    kv_cache_is_the_limit_from_the_first_scrape,
    a_queue_at_the_door_is_not_the_kv_cache,
    short_waits_are_not_saturation,
    stuck_engine_stays_finite,
    restart,
    two_scrapes_missed,
    scrape_missed_with_room,
    pod_gone,
    slots_unknown,
    two_models_are_one_series,
    averages_below_one_request_a_second,
    first_token_quantiles,
    a_sku_is_the_sum_of_its_pods,
    cheap_first,
    cheap_first_never_hides_a_queue,
    errors_and_rejections,
)


@pytest.mark.parametrize("build", FRONT_CASES, ids=lambda build: build.__name__)
def test_front_model(build: Callable[[], Case], tmp_path: Path) -> None:
    run_case(build(), tmp_path, FRONT)


def ensemble_pod(
    *,
    entered: str | float,
    left: str | float,
    failed: str | float = 0,
    scheduled: str | float = 0,
    waiting: str | float = 0,
    most: str | float = 8,
    duration_us: str | float = 0,
    up: str | float = 1,
) -> Case:
    """Return a pod of the upstream ensemble: preprocessing counts requests in, the ensemble counts them out."""
    case = Case().add("up", up, job="j")
    for model, value in (("preprocessing", entered), ("ensemble", left), ("tensorrt_llm", left)):
        case.add("nv_inference_request_success", value, model=model, version="1")
    for reason, value in (("OTHER", failed), ("REJECTED", 0)):
        case.add("nv_inference_request_failure", value, model="ensemble", version="1", reason=reason)
    case.add("nv_inference_request_duration_us", duration_us, model="ensemble", version="1")
    return engine_gauges(case, scheduled=scheduled, waiting=waiting, most=most)


def ensemble_idle() -> Case:
    case = ensemble_pod(entered=100, left=100)
    for metric in (*SIGNALS, *AVERAGES):
        case.pods(metric, 60, {"p": 0})
    return case.skus("triton:sku_errors:ratio", 60, {"a": 0}).pods(QUANTILES[0], 60, {})


def ensemble_half_busy() -> Case:
    case = ensemble_pod(entered="104+10x40", left="100+10x40", scheduled=4, duration_us="0+20000000x40")
    case.pods("triton:occupancy:ratio", 120, {"p": 0.5}).pods("triton:demand:ratio", 120, {"p": half_busy_demand(1.4)})
    case.pods("triton:request_duration:average", 120, {"p": 2}).pods("triton:queue_duration:average", 120, {"p": 0})
    return case.pods("triton:compute_duration:average", 120, {"p": 2})


def ensemble_sees_the_executors_queue() -> Case:
    # 24 inside 8 slots while the waiting gauge says 0.
    case = ensemble_pod(entered="124+10x40", left="100+10x40", scheduled=8, duration_us="0+120000000x40")
    case.pods("triton:waiting:requests", 120, {"p": 16}).pods("triton:running:requests", 120, {"p": 8})
    case.pods("triton:queue_compute:ratio", 120, {"p": 2}).pods("triton:demand:ratio", 120, {"p": 3})
    return case.pods("triton:queue_duration:average", 120, {"p": 8}).pods(
        "triton:compute_duration:average", 120, {"p": 4}
    )


def ensemble_kv_cache_is_the_limit() -> Case:
    case = ensemble_pod(entered="132+10x40", left="100+10x40", scheduled=20, waiting=12, most=64)
    case.pods("triton:usable_slots:requests", 120, {"p": 20}).pods("triton:queue_compute:ratio", 120, {"p": 0.6})
    return case.pods("triton:demand:ratio", 120, {"p": 1.6})


def ensemble_counts_failures_twice() -> Case:
    case = ensemble_pod(entered="100+2x40", left=100, failed="0+4x40")
    return case.pods("triton:inflight:requests", 120, {"p": 0}).skus("triton:sku_errors:ratio", 150, {"a": 1})


def ensemble_preprocessing_fails() -> Case:
    """One in two requests raises in preprocessing; the ensemble counts each of them twice."""
    case = ensemble_pod(entered="105+1x40", left="100+1x40", failed="0+2x40", scheduled=5)
    case.add("nv_inference_request_failure", "0+1x40", model="preprocessing", version="1", reason="BACKEND")
    return case.pods("triton:inflight:requests", 120, {"p": 5})


def ensemble_refuses() -> Case:
    case = ensemble_pod(entered="100+9x80", left="100+9x80")
    case.add("nv_inference_request_failure", "0+1x80", model="tensorrt_llm", version="1", reason="REJECTED")
    return case.skus("triton:sku_rejected:ratio", 360, {"a": 0.1})


def ensemble_restart() -> Case:
    case = ensemble_pod(entered="1024+10x10 16+10x20", left="1000+10x10 0+10x20", scheduled=8)
    return case.pods("triton:inflight:requests", 50, {"p": 24}).pods("triton:inflight:requests", 55, {"p": 16})


def ensemble_scrape_missed() -> Case:
    case = ensemble_pod(
        entered="124x9 stale 124x20",
        left="100x9 stale 100x20",
        scheduled="8x9 stale 8x20",
        waiting="0x9 stale 0x20",
        most="8x9 stale 8x20",
        up="1x9 0 1x20",
    )
    return case.pods("triton:queue_compute:ratio", 50, {"p": 2}).pods("triton:demand:ratio", 55, {"p": 3})


def ensemble_histogram() -> Case:
    case = ensemble_pod(entered="100+10x40", left="100+10x40")
    for bound, value in (("100", "0+10x40"), ("1000", "0+20x40"), ("+Inf", "0+20x40")):
        case.add("nv_inference_first_response_histogram_ms_bucket", value, model="ensemble", version="1", le=bound)
    case.add("nv_inference_first_response_histogram_ms_count", "0+20x40", model="ensemble", version="1")
    return case.pods(QUANTILES[0], 120, {"p": 0.1}).pods(QUANTILES[1], 120, {"p": 0.91})


ENSEMBLE_CASES = (
    ensemble_idle,
    ensemble_half_busy,
    ensemble_sees_the_executors_queue,
    ensemble_kv_cache_is_the_limit,
    ensemble_counts_failures_twice,
    ensemble_preprocessing_fails,
    ensemble_refuses,
    ensemble_restart,
    ensemble_scrape_missed,
    ensemble_histogram,
)


@pytest.mark.parametrize("build", ENSEMBLE_CASES, ids=lambda build: build.__name__)
def test_upstream_ensemble(build: Callable[[], Case], tmp_path: Path) -> None:
    run_case(build(), tmp_path, ENSEMBLE)


def cpp_pod(
    *,
    scheduled: str | float,
    waiting: str | float = 0,
    duration_us: str | float = 0,
    done: str | float = 0,
    most: str | float = 8,
    up: str | float = 1,
) -> Case:
    """Return a pod with a C++ tensorrt_llm model alone."""
    name = {"model": "tensorrt_llm", "version": "1"}
    case = Case().add("up", up, job="j").add("nv_inference_request_success", done, **name)
    case.add("nv_inference_request_failure", 0, reason="OTHER", **name)
    case.add("nv_inference_request_duration_us", duration_us, **name)
    return engine_gauges(case, scheduled=scheduled, waiting=waiting, most=most)


def cpp_idle() -> Case:
    case = cpp_pod(scheduled=0, done=7)
    for metric in (*SIGNALS, *AVERAGES):
        case.pods(metric, 60, {"p": 0})
    return case.skus("triton:sku_errors:ratio", 60, {"a": 0}).pods(QUANTILES[0], 60, {})


def cpp_half_busy() -> Case:
    case = cpp_pod(scheduled=4, duration_us="0+20000000x40", done="0+10x40")
    case.pods("triton:occupancy:ratio", 120, {"p": 0.5}).pods("triton:queue_compute:ratio", 120, {"p": 0})
    return case.pods("triton:request_duration:average", 120, {"p": 2})


def cpp_little_sees_the_executors_queue() -> Case:
    case = cpp_pod(scheduled=8, duration_us="0+120000000x40", done="0+10x40")
    case.pods("triton:waiting:requests", 120, {"p": 16}).pods("triton:queue_compute:ratio", 120, {"p": 2})
    return case.pods("triton:demand:ratio", 120, {"p": 3}).pods("triton:queue_duration:average", 120, {"p": 8})


def cpp_kv_cache_is_the_limit() -> Case:
    # Nothing has completed yet, so only the gauge can answer.
    case = cpp_pod(scheduled=20, waiting=12, most=64)
    case.pods("triton:usable_slots:requests", 120, {"p": 20}).pods("triton:queue_compute:ratio", 120, {"p": 0.6})
    return case.pods("triton:demand:ratio", 120, {"p": 1.6})


def cpp_restart() -> Case:
    case = cpp_pod(scheduled=8, duration_us="900000000+40000000x10 0+40000000x20", done="500+10x10 0+10x20")
    return case.pods("triton:demand:ratio", 55, {"p": 1}).pods("triton:demand:ratio", 60, {"p": 1})


def cpp_scrape_missed() -> Case:
    case = cpp_pod(
        scheduled="8x9 stale 8x20",
        waiting="0x9 stale 0x20",
        duration_us="0+120000000x9 _ 1320000000+120000000x20",
        done="0+10x9 _ 110+10x20",
        most="8x9 stale 8x20",
        up="1x9 0 1x20",
    )
    return case.pods("triton:usable_slots:requests", 50, {"p": 8}).pods("triton:demand:ratio", 90, {"p": 3})


CPP_CASES = (
    cpp_idle,
    cpp_half_busy,
    cpp_little_sees_the_executors_queue,
    cpp_kv_cache_is_the_limit,
    cpp_restart,
    cpp_scrape_missed,
)


@pytest.mark.parametrize("build", CPP_CASES, ids=lambda build: build.__name__)
def test_cpp_gauges(build: Callable[[], Case], tmp_path: Path) -> None:
    run_case(build(), tmp_path, CPP)


@pytest.mark.parametrize("build", [warming, unscraped], ids=lambda build: build.__name__)
@pytest.mark.parametrize("rules", [ENSEMBLE, CPP], ids=lambda path: path.stem)
def test_fallbacks_while_starting(build: Callable[[], Case], rules: Path, tmp_path: Path) -> None:
    case = build()
    # Triton's own histogram tells nothing before it exists, unlike the front model's.
    case.expressions = [one for one in case.expressions if "first_token" not in str(one["expr"])]
    run_case(case, tmp_path, rules)


def rules_of(path: Path) -> dict[str, dict[str, str]]:
    """Return group name -> {record or alert: expression}."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        group["name"]: {rule.get("record", rule.get("alert")): rule["expr"] for rule in group["rules"]}
        for group in document["groups"]
    }


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yaml")), ids=lambda path: path.stem)
def test_promtool_check(path: Path) -> None:
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duplicate" not in done.stdout


@pytest.mark.parametrize("path", [ENSEMBLE, CPP], ids=lambda path: path.stem)
def test_fallbacks_share_the_derived_rules(path: Path) -> None:
    front, other = rules_of(FRONT), rules_of(path)
    derived = ("occupancy:ratio", "queue_compute:ratio", "batching_factor:ratio", "busy:ratio", "demand_smoothed:ratio")
    for name in (f"triton:{metric}" for metric in derived):
        assert other["trtbuild-pod"][name] == front["trtbuild-pod"][name]
    assert other["trtbuild-sku"] == front["trtbuild-sku"]


@pytest.mark.parametrize("path", [ENSEMBLE, CPP], ids=lambda path: path.stem)
def test_fallbacks_record_the_same_series(path: Path) -> None:
    recorded = {name for group in rules_of(path).values() for name in group}
    signals = [rules_of(fallback)["trtbuild-signal"]["triton:demand:ratio"] for fallback in (ENSEMBLE, CPP)]
    assert signals[0] == signals[1]
    expected = {*SIGNALS, *AVERAGES, *QUANTILES, "triton:usable_slots:requests"}
    expected |= {"triton:sku_errors:ratio", "triton:sku_rejected:ratio", "triton:sku_demand:pods"}
    assert expected <= recorded


def scoped(path: Path, tmp_path: Path) -> Path:
    """Return the file as an installation renders it for one release."""
    text = path.read_text(encoding="utf-8")
    text = text.replace('namespace=~".+"', 'namespace="n"').replace('release=~".+"', 'namespace="n", release="r"')
    copy = tmp_path / path.name
    copy.write_text(text, encoding="utf-8")
    return copy


def test_scoped_rules_leave_other_releases_alone(tmp_path: Path) -> None:
    case = front_pod(Case(), queue="0+320x40", compute="0+320x40", waiting=64, running=64)
    other = '{namespace="n", pod="o", sku="a", release="other", model="m", version="1"}'
    for name, values in (("request_queue_seconds_total", "0+5x40"), ("requests_waiting", 1), ("request_slots", 8)):
        case.raw(f"trtbuild_{name}{other}", values)
    case.raw('up{namespace="n", pod="o", sku="a", release="other"}', 1)
    for metric in SIGNALS[:1] + SIGNALS[2:4]:
        case.expect(f"count({metric})", 120, {"{}": 1})
    run_case(case, tmp_path, scoped(FRONT, tmp_path))


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_selector_is_scoped(path: Path, tmp_path: Path) -> None:
    """A selector without the token would read other releases' series: parse them out of the replaced text."""
    text = scoped(path, tmp_path).read_text(encoding="utf-8")
    expressions = [e for group in yaml.safe_load(text)["groups"] for e in (rule["expr"] for rule in group["rules"])]
    selectors = re.compile(r"\{__name__[^}]*\}|\b(?:triton:|trtbuild_|nv_|kube_|kubelet_|up\b)[\w:]*(?:\{[^}]*\})?")
    seen = 0
    for expression in expressions:
        for selector in selectors.findall(expression):
            seen += 1
            if selector.startswith("kube_node_"):
                continue  # nodes belong to no namespace; the alert joins them to the release's pods
            assert 'namespace="n"' in selector, f"{selector} in {expression}"
    assert seen > 10


def test_constants_of_a_sku(tmp_path: Path) -> None:
    values = {
        "NAMESPACE": "n",
        "RELEASE": "r",
        "SKU": "a",
        "DEPLOYMENT": "r-a",
        "HPA": "r-a",
        "BATCHING_FACTOR": "1.6",
        "WEIGHT": "2",
        "COST_PER_HOUR": "3.5",
        "TARGET": "0.8",
        "CAPACITY_BEFORE": "0",
        "INIT_BUDGET_SECONDS": "2400",
        "LOAD_BUDGET_SECONDS": "600",
        "WARM_INIT_SECONDS": "120",
    }
    text = (RULES / "sku.yaml.tpl").read_text(encoding="utf-8")
    for name, value in values.items():
        assert f"@{name}@" in text
        text = text.replace(f"@{name}@", value)
    assert "@" not in text.replace("@...@", "")
    path = tmp_path / "sku.yaml"
    path.write_text("groups:\n" + text, encoding="utf-8")
    case = front_pod(Case(), compute="0+160x40", running=32)
    case.pods("triton:demand:ratio", 180, {"p": half_busy_demand(1.6)})
    case.expect(
        "trtbuild_sku_weight",
        60,
        {"trtbuild_sku_weight" + sku_labels(deployment="r-a", horizontalpodautoscaler="r-a"): 2},
    )
    run_case(case, tmp_path, FRONT, path)


def test_helpers_write_what_promql_prints() -> None:
    assert labels("p", "a", le="1") == '{le="1", namespace="n", pod="p", sku="a", release="r"}'
