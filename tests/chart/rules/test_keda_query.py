"""The query that a ScaledObject asks, as the chart renders it, in every state a fleet can be in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chart.helm import ci_values, merge, render
from tests.chart.rules.promtest import Case, run_case

KEDA = ci_values("keda")
AT_S = 120
"""When a state changes; samples are 5 s apart."""
BEFORE = AT_S // 5
DEPLOYMENT = 'namespace="inference", deployment="llama-trtbuild-a100"'
SERIES = {
    "demand": "triton:demand:ratio{%s}",
    "demand-by-cost": "triton:demand_by_cost:ratio{%s}",
    "queue-compute": "triton:queue_compute:ratio{%s}",
    "waiting": "triton:waiting:requests{%s}",
    "kv-cache": 'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction", model="tensorrt_llm", %s}',
    "gpu-utilization": 'DCGM_FI_DEV_GPU_UTIL{gpu="0", %s}',
}


def query(metric: str = "demand") -> str:
    """Return the rendered query."""
    [trigger] = render(merge(KEDA, {"autoscaling": {"metric": metric}})).one("ScaledObject")["spec"]["triggers"]
    text = trigger["metadata"]["query"]
    assert isinstance(text, str)
    return text


def pod_labels(metric: str, name: str, sku: str = "a100") -> str:
    pod = f"llama-trtbuild-{sku}-6c9f7b5d4-{name}"
    if metric == "gpu-utilization":
        return f'exported_namespace="inference", exported_pod="{pod}", pod="dcgm-x7x7x"'
    return f'namespace="inference", pod="{pod}", release="llama", sku="{sku}"'


def pods(case: Case, values: str | float, *names: str, metric: str = "demand", sku: str = "a100") -> Case:
    """Add the series of pods."""
    for name in names:
        case.raw(SERIES[metric] % pod_labels(metric, name, sku), values)
    return case


def ready(case: Case, values: str | float) -> Case:
    """Add what kube-state-metrics says, twice as with two replicas of it, and of another Deployment."""
    for instance in ("ksm-0", "ksm-1"):
        case.raw(f'kube_deployment_status_replicas_ready{{{DEPLOYMENT}, instance="{instance}"}}', values)
    return case.raw('kube_deployment_status_replicas_ready{namespace="inference", deployment="other"}', 50)


def answers(case: Case, at_s: int, value: float | None, metric: str = "demand") -> Case:
    """Expect the number, to three digits; None expects no result at all."""
    return case.expect(f"round({query(metric)}, 0.001)", at_s, {} if value is None else {"{}": value})


def steady() -> Case:
    case = ready(pods(Case(), 0.8, "aaaaa", "bbbbb", "ccccc"), 3)
    pods(case, 4, "ddddd", sku="h100")
    return answers(answers(case, 0, 2.4), AT_S, 2.4)


def idle_is_zero() -> Case:
    return answers(ready(pods(Case(), 0, "aaaaa", "bbbbb"), 2), AT_S, 0)


def one_scrape_lost() -> Case:
    case = ready(pods(Case(), 0.8, "aaaaa", "bbbbb"), 3)
    pods(case, f"0.8x{BEFORE - 1} stale _x3 0.8x50", "ccccc")
    for at_s in range(AT_S - 5, AT_S + 40, 5):
        answers(case, at_s, 2.4)
    return case


def a_pod_not_seen_for_a_minute_no_longer_counts() -> Case:
    case = ready(pods(Case(), 0.8, "aaaaa", "bbbbb"), 3)
    pods(case, f"0.8x{BEFORE - 1} stale", "ccccc")
    return answers(answers(case, AT_S + 50, 2.4), AT_S + 60, 1.6)


def new_pods_are_ready_but_not_scraped() -> Case:
    case = ready(pods(Case(), 4.5, "aaaaa", "bbbbb"), f"2x{BEFORE - 1} 10x100")
    for at_s in (AT_S, AT_S + 5, AT_S + 60):
        answers(case, at_s, 9)
    return case


def new_pods_are_scraped_and_idle() -> Case:
    case = ready(pods(Case(), 4.5, "aaaaa", "bbbbb"), f"2x{BEFORE - 1} 4x100")
    pods(case, f"_x{BEFORE} 0x100", "ccccc", "ddddd")
    return answers(answers(case, AT_S, 9), AT_S + 60, 9)


def a_removed_pod_is_gone() -> Case:
    case = ready(pods(Case(), 0.5, "aaaaa", "bbbbb"), f"4x{BEFORE - 1} 2x100")
    pods(case, f"0.5x{BEFORE - 1} stale", "ccccc", "ddddd")
    answers(case, AT_S - 5, 2)
    for at_s in (AT_S, AT_S + 30, AT_S + 90):
        answers(case, at_s, 1)
    return case


def a_removed_pod_still_drains() -> Case:
    """It is scraped and has work, but is not ready any more."""
    case = ready(pods(Case(), 0.5, "aaaaa", "bbbbb", "ccccc"), 2)
    return answers(case, AT_S, 1.5)


def cluster_metrics_absent() -> Case:
    case = pods(Case(), 0.8, "aaaaa", "bbbbb")
    pods(case, f"0.8x{BEFORE - 1} stale", "ccccc")
    return answers(answers(case, AT_S - 5, 2.4), AT_S + 10, 1.6)


def cluster_metrics_lost() -> Case:
    case = pods(ready(Case(), f"2x{BEFORE - 1} stale"), 0.8, "aaaaa", "bbbbb")
    return answers(answers(case, AT_S - 5, 1.6), AT_S, 1.6)


def no_pod_has_been_scraped() -> Case:
    return answers(answers(ready(Case(), f"0x{BEFORE} 2x100"), 0, None), AT_S + 60, None)


def every_scrape_lost() -> Case:
    case = ready(pods(Case(), f"0.8x{BEFORE - 1} stale _x3 0.8x50", "aaaaa", "bbbbb"), 2)
    return answers(answers(answers(case, AT_S - 5, 1.6), AT_S + 5, None), AT_S + 30, 1.6)


def nothing_there() -> Case:
    return answers(Case().raw("up", 1), AT_S, None)


CASES = (
    steady,
    idle_is_zero,
    one_scrape_lost,
    a_pod_not_seen_for_a_minute_no_longer_counts,
    new_pods_are_ready_but_not_scraped,
    new_pods_are_scraped_and_idle,
    a_removed_pod_is_gone,
    a_removed_pod_still_drains,
    cluster_metrics_absent,
    cluster_metrics_lost,
    no_pod_has_been_scraped,
    every_scrape_lost,
    nothing_there,
)


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_query(build: Callable[[], Case], tmp_path: Path) -> None:
    run_case(build(), tmp_path)


@pytest.mark.parametrize("metric", SERIES)
def test_every_metric_is_bridged_alike(metric: str, tmp_path: Path) -> None:
    """One of three pods is lost, then two pods come that are not scraped yet."""
    case = ready(pods(Case(), 2, "aaaaa", "bbbbb", metric=metric), f"3x{BEFORE + 3} 5x100")
    pods(case, f"2x{BEFORE - 1} stale _x3 2x50", "ccccc", metric=metric)
    for at_s in (AT_S - 5, AT_S + 5, AT_S + 60):
        answers(case, at_s, 6, metric)
    run_case(case, tmp_path)


def test_several_gpus_of_a_pod_are_one_pod(tmp_path: Path) -> None:
    case = Case()
    for gpu, value in enumerate((20, 40)):
        labels = pod_labels("gpu-utilization", "aaaaa")
        case.raw(f'DCGM_FI_DEV_GPU_UTIL{{gpu="{gpu}", {labels}}}', value)
    run_case(answers(ready(case, 1), AT_S, 30, "gpu-utilization"), tmp_path)
