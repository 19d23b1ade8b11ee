"""The autoscaler's arithmetic against the cases Kubernetes publishes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.autoscaling.hpa import (
    DEFAULT_UP,
    HpaController,
    HpaSpec,
    Phase,
    PodMetric,
    Policy,
    Rules,
    pods_metric_replicas,
)

PENDING = PodMetric(phase=Phase.PENDING)
MISSING = PodMetric()


def pods(*values: float) -> list[PodMetric]:
    return [PodMetric(value=value) for value in values]


# Source: Kubernetes pkg/controller/podautoscaler/replica_calculator_test.go, the TestReplicaCalc... of each id.
# Those of CPU metrics with unready pods are the Pending ones here: the same arithmetic after grouping. Two are left out
# because only CPU takes a missing pod at its whole request on the way down: ...NoChangeEq and ...UnreadyScaleDown.
PUBLISHED = [
    pytest.param(3, pods(20, 10, 30), 15, 4, id="ScaleUpCM"),
    pytest.param(3, pods(50, 10, 30), 15, 6, id="ScaleUpCMUnreadyHotCpuNoLessScale"),
    pytest.param(3, pods(50, 15, 30), 15, 7, id="ScaleUpCMUnreadyHotCpuScaleWouldScaleDown"),
    pytest.param(1, pods(8.6), 4.4, 2, id="ScaleUpCMExternal(pods)"),
    pytest.param(5, pods(12, 12, 12, 12, 12), 20, 3, id="ScaleDownCM"),
    pytest.param(3, pods(20, 21, 21), 20, 3, id="ToleranceCM"),
    pytest.param(3, pods(0.3, 0.5, 0.7), 0.3, 5, id="ScaleUp"),
    pytest.param(3, [PENDING, *pods(0.5, 0.7)], 0.3, 4, id="ScaleUpUnreadyLessScale"),
    pytest.param(3, [*pods(0.4), PENDING, PENDING], 0.3, 3, id="ScaleUpUnreadyNoScale"),
    pytest.param(5, pods(0.1, 0.3, 0.5, 0.25, 0.25), 0.5, 3, id="ScaleDown"),
    pytest.param(5, [*pods(0.1, 0.3, 0.5), PENDING, PENDING], 0.5, 2, id="ScaleDownIncludeUnreadyPods"),
    pytest.param(5, [*pods(0.1), PENDING, PENDING, PENDING, PENDING], 0.5, 1, id="ScaleDownExcludeUnscheduledPods"),
    pytest.param(2, [*pods(0.5, 0.7), *[PodMetric(phase=Phase.FAILED)] * 2], 0.3, 4, id="ScaleUpIgnoresFailedPods"),
    pytest.param(2, [*pods(0.5, 0.7), *[PodMetric(value=9, deleting=True)] * 2], 0.3, 4, id="ScaleUpIgnoresDeletion"),
    pytest.param(4, [*pods(0.4, 0.095), MISSING, MISSING], 1.0, 3, id="MissingMetrics"),
    pytest.param(3, [MISSING, MISSING, MISSING], 1.0, None, id="EmptyMetrics"),
    pytest.param(2, [*pods(1.9), MISSING], 1.0, 2, id="MissingMetricsNoChangeGt"),
    pytest.param(2, [*pods(0.6), MISSING], 1.0, 2, id="MissingMetricsNoChangeLt"),
    pytest.param(3, [PENDING, MISSING, *pods(0.45)], 0.5, 3, id="MissingMetricsUnreadyChange"),
    pytest.param(3, [PENDING, MISSING, *pods(2.0)], 0.5, 4, id="MissingMetricsUnreadyScaleUp"),
    pytest.param(2, [*pods(0.1, 0.1), MISSING], 0.5, 2, id="DuringRollingUpdateWithMaxSurge"),
]


@pytest.mark.parametrize(("current", "seen", "target", "expected"), PUBLISHED)
def test_published_replica_calculations(
    current: int, seen: Sequence[PodMetric], target: float, expected: int | None
) -> None:
    assert pods_metric_replicas(current, seen, target) == expected


def test_pending_pods_do_not_compound() -> None:
    """Four pods asked for a moment ago are not asked for again while they build."""
    assert pods_metric_replicas(5, [*pods(4.0), *[PENDING] * 4], 0.8) == 5


def test_on_the_way_down_pending_pods_are_not_counted() -> None:
    """The trap of builds inside scaled pods: half load on the one ready pod asks for one replica of four."""
    assert pods_metric_replicas(4, [*pods(0.4), *[PENDING] * 3], 0.8) == 1


def settle(controller: HpaController, start: int, wanted: int, *, every_s: float, syncs: int) -> list[int]:
    """Return the distinct replicas over time when the metric keeps asking for the same number."""
    seen, current = [start], start
    for step in range(syncs):
        current = controller.sync(step * every_s, current, wanted)
        if current != seen[-1]:
            seen.append(current)
    return seen


def spec(**changes: object) -> HpaSpec:
    return HpaSpec(**{"min_replicas": 1, "max_replicas": 1000, "target": 1.0, **changes})  # type: ignore[arg-type]


def percent(value: int, period_s: int = 60) -> Policy:
    return Policy(kind="Percent", value=value, period_s=period_s)


def some(value: int, period_s: int = 60) -> Policy:
    return Policy(kind="Pods", value=value, period_s=period_s)


def test_kep_853_story_1_up_as_fast_as_possible() -> None:
    controller = HpaController(spec=spec(up=Rules(window_s=0, policies=(percent(900),))))
    assert settle(controller, 1, 1000, every_s=60, syncs=10) == [1, 10, 100, 1000]


def test_kep_853_story_3_one_pod_a_minute() -> None:
    controller = HpaController(spec=spec(up=Rules(window_s=0, policies=(some(1),))))
    assert settle(controller, 1, 4, every_s=15, syncs=40) == [1, 2, 3, 4]


def test_documented_scale_down_of_ten_percent_or_four_pods() -> None:
    """Source: kubernetes.io, Horizontal Pod Autoscaling, scaling policies: 80 pods lose 8, then 7.2 rounded up."""
    down = Rules(window_s=0, policies=(some(4), percent(10)))
    seen = settle(HpaController(spec=spec(down=down)), 80, 10, every_s=60, syncs=30)
    assert seen[:3] == [80, 72, 64]
    assert seen[-1] == 10
    below_forty = [later - now for now, later in itertools.pairwise(seen) if now <= 40]
    assert set(below_forty[:-1]) == {-4}


def test_a_period_counts_what_was_added_in_it() -> None:
    controller = HpaController(spec=spec(up=Rules(window_s=0, policies=(some(4, 60),))))
    assert [controller.sync(at_s, now, 50) for at_s, now in ((0, 1), (15, 5), (45, 5), (61, 5))] == [5, 5, 5, 9]


def test_default_up_is_the_larger_of_four_pods_and_double() -> None:
    assert settle(HpaController(spec=spec()), 1, 40, every_s=15, syncs=9) == [1, 5, 10, 20, 40]


def test_the_down_window_holds_the_highest_recent_wish() -> None:
    controller = HpaController(spec=spec(down=Rules(window_s=300, policies=(percent(100, 15),))))
    assert controller.sync(0, 5, 5) == 5
    assert [controller.sync(at_s, 5, 1) for at_s in (15, 150, 285)] == [5, 5, 5]
    assert controller.sync(301, 5, 1) == 1


def test_the_up_window_waits_for_the_lowest_wish() -> None:
    controller = HpaController(spec=spec(up=Rules(window_s=60, policies=(some(100),))))
    assert [controller.sync(at_s, 2, 8) for at_s in (0, 30, 59)] == [2, 2, 2]
    assert controller.sync(75, 2, 8) == 8


def test_an_old_high_wish_never_scales_up() -> None:
    """Before 1.21 a wish for one replica could scale up because of an old high wish."""
    controller = HpaController(spec=spec())
    controller.sync(0, 8, 8)
    assert controller.sync(15, 1, 1) == 1


@pytest.mark.parametrize(
    ("select", "expected"), [("Max", 8), ("Min", 5), ("Disabled", 4)], ids=["max", "min", "disabled"]
)
def test_select_policy_up(select: str, expected: int) -> None:
    rules = Rules(window_s=0, policies=(some(1), percent(100)), select=select)  # type: ignore[arg-type]
    assert HpaController(spec=spec(up=rules)).sync(0, 4, 100) == expected


@pytest.mark.parametrize(
    ("select", "expected"), [("Max", 5), ("Min", 9), ("Disabled", 10)], ids=["max", "min", "disabled"]
)
def test_select_policy_down(select: str, expected: int) -> None:
    rules = Rules(window_s=0, policies=(some(1), percent(50)), select=select)  # type: ignore[arg-type]
    assert HpaController(spec=spec(down=rules)).sync(0, 10, 1) == expected


def test_bounds_act_without_a_metric() -> None:
    controller = HpaController(spec=spec(min_replicas=2, max_replicas=4))
    assert [controller.sync(0, now, None) for now in (1, 3, 9)] == [2, 3, 4]


def test_zero_replicas_means_switched_off() -> None:
    assert HpaController(spec=spec()).sync(0, 0, 5) == 0


def test_tolerance_per_direction() -> None:
    up = Rules(window_s=0, policies=DEFAULT_UP.policies, tolerance=0.05)
    assert pods_metric_replicas(2, pods(0.86, 0.86), 0.8) == 2
    assert pods_metric_replicas(2, pods(0.86, 0.86), 0.8, up=up) == 3


values = st.one_of(st.none(), st.floats(min_value=0, max_value=50, allow_nan=False))
some_pods = st.lists(
    st.builds(PodMetric, phase=st.sampled_from(Phase), value=values, deleting=st.booleans()), min_size=1, max_size=12
)


@given(seen=some_pods, target=st.floats(min_value=0.05, max_value=5), current=st.integers(1, 12))
def test_a_wish_is_never_negative_and_is_linear_without_gaps(
    seen: list[PodMetric], target: float, current: int
) -> None:
    wanted = pods_metric_replicas(current, seen, target)
    has_value = any(p.phase is Phase.RUNNING and not p.deleting and p.value is not None for p in seen)
    assert (wanted is None) == (not has_value)
    assert wanted is None or wanted >= 0


@given(
    wishes=st.lists(st.one_of(st.none(), st.integers(0, 60)), min_size=1, max_size=60),
    start=st.integers(1, 20),
    window_s=st.sampled_from([0, 60, 300]),
)
def test_replicas_stay_in_bounds_and_inside_the_window(wishes: list[int | None], start: int, window_s: int) -> None:
    down = Rules(window_s=window_s, policies=(percent(100, 15),))
    controller = HpaController(spec=spec(min_replicas=1, max_replicas=20, down=down))
    current, history = start, []
    for step, wish in enumerate(wishes):
        now_s = step * 15.0
        after = controller.sync(now_s, current, wish)
        history.append((now_s, wish))
        recent = [w for at_s, w in history if w is not None and at_s > now_s - window_s]
        assert 1 <= after <= 20
        if after < current and recent:
            assert after >= min(max(recent), 20)
        current = after
