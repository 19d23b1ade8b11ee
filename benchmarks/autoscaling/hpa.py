"""The HorizontalPodAutoscaler's arithmetic: what Kubernetes would do with these pods and this metric.

Pure: no clock, no I/O. It covers one metric of type Pods with an AverageValue target, or External with an AverageValue
target (KEDA); behaviour as of Kubernetes 1.23 and later. It does not cover CPU metrics (readiness delays) nor several
metrics at once (the controller takes the maximum).

Source: Kubernetes pkg/controller/podautoscaler/{replica_calculator,horizontal}.go; KEP-853 (behavior).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

SYNC_S = 15.0
TOLERANCE = 0.1


class Phase(Enum):
    """A pod's phase as far as the autoscaler asks for it."""

    PENDING = "Pending"
    RUNNING = "Running"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True)
class PodMetric:
    """A pod as the controller sees it at one sync.

    Attributes:
        value: The pod's metric, or None where the metrics API returned none for it.
        deleting: Whether the pod has a deletion timestamp.
    """

    phase: Phase = Phase.RUNNING
    value: float | None = None
    deleting: bool = False


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How far one policy lets the number of replicas move within a period.

    Attributes:
        value: Pods, or percent of the replicas at the start of the period.
        period_s: Length of the period in seconds.
    """

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: int


@dataclass(frozen=True, kw_only=True)
class Rules:
    """``behavior.scaleUp`` or ``behavior.scaleDown``.

    Attributes:
        window_s: ``stabilizationWindowSeconds``.
        select: ``selectPolicy``.
        tolerance: Relative distance from the target that is ignored in this direction.
    """

    window_s: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"
    tolerance: float = TOLERANCE


DEFAULT_UP = Rules(
    window_s=0,
    policies=(Policy(kind="Pods", value=4, period_s=15), Policy(kind="Percent", value=100, period_s=15)),
)
DEFAULT_DOWN = Rules(window_s=300, policies=(Policy(kind="Percent", value=100, period_s=15),))


@dataclass(frozen=True, kw_only=True)
class HpaSpec:
    """The fields of a HorizontalPodAutoscaler that decide."""

    min_replicas: int
    max_replicas: int
    target: float
    up: Rules = DEFAULT_UP
    down: Rules = DEFAULT_DOWN


def _within(ratio: float, up: Rules, down: Rules) -> bool:
    return 1.0 - down.tolerance <= ratio <= 1.0 + up.tolerance


def pods_metric_replicas(
    current: int, pods: Sequence[PodMetric], target: float, *, up: Rules = DEFAULT_UP, down: Rules = DEFAULT_DOWN
) -> int | None:
    """Return the replicas that a Pods metric with an AverageValue asks for, or None where it cannot be computed.

    Args:
        current: ``spec.replicas`` of the scaled object.
        pods: The pods its selector matches, deleted and failed ones included.
        target: The AverageValue as a plain number (0.8 for ``800m``).
        up: Scale-up rules, for their tolerance.
        down: Scale-down rules, for their tolerance.
    """
    target_milli = round(target * 1000)
    alive = [pod for pod in pods if not pod.deleting and pod.phase is not Phase.FAILED]
    pending = sum(1 for pod in alive if pod.phase is Phase.PENDING)
    running = [pod for pod in alive if pod.phase is Phase.RUNNING]
    values = [int(pod.value * 1000) for pod in running if pod.value is not None]
    missing = len(running) - len(values)
    if not values:
        return None
    usage = int(sum(values) / len(values)) / target_milli
    pending_counts = pending > 0 and usage > 1.0
    if not pending_counts and not missing:
        return current if _within(usage, up, down) else math.ceil(usage * len(values))
    # A missing pod is taken as whatever moves least: at its target on the way down, idle on the way up.
    values += [target_milli if usage < 1.0 else 0] * missing
    if pending_counts:
        values += [0] * pending
    adjusted = int(sum(values) / len(values)) / target_milli
    flipped = (usage < 1.0 < adjusted) or (adjusted < 1.0 < usage)
    if _within(adjusted, up, down) or flipped:
        return current
    wanted = math.ceil(adjusted * len(values))
    if (adjusted < 1.0 and wanted > current) or (adjusted > 1.0 and wanted < current):
        return current
    return wanted


@dataclass(kw_only=True)
class HpaController:
    """The controller's memory of one object: recommendations for the windows, changes for the policies."""

    spec: HpaSpec
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now_s: float, current: int, wanted: int | None) -> int:
        """Return the replicas after this sync.

        Args:
            now_s: Time of the sync, in seconds on any steady clock.
            current: ``spec.replicas`` now.
            wanted: What the metric asks for, or None where it is unavailable (then only the bounds act).
        """
        spec = self.spec
        if current == 0:
            return 0
        if not self._recommended:
            self._recommended.append((now_s, current))
        if current > spec.max_replicas:
            desired = spec.max_replicas
        elif current < spec.min_replicas:
            desired = spec.min_replicas
        elif wanted is None:
            desired = current
        else:
            desired = self._limit(now_s, current, self._stabilize(now_s, current, wanted))
        if desired != current:
            self._changes.append((now_s, desired - current))
        return desired

    def _stabilize(self, now_s: float, current: int, wanted: int) -> int:
        """Clamp the current replicas between the lowest wish of the up window and the highest of the down window."""
        lowest = highest = wanted
        longest = max(self.spec.up.window_s, self.spec.down.window_s)
        self._recommended = [one for one in self._recommended if one[0] > now_s - longest]
        for at_s, replicas in self._recommended:
            if at_s > now_s - self.spec.up.window_s:
                lowest = min(lowest, replicas)
            if at_s > now_s - self.spec.down.window_s:
                highest = max(highest, replicas)
        self._recommended.append((now_s, wanted))
        return min(max(current, lowest), highest)

    def _limit(self, now_s: float, current: int, desired: int) -> int:
        """Apply the policies, then the bounds."""
        spec = self.spec
        if desired > current:
            allowed = max(current, self._up_limit(now_s, current))
            return min(desired, allowed, spec.max_replicas)
        if desired < current:
            allowed = min(current, self._down_limit(now_s, current))
            return max(desired, allowed, spec.min_replicas)
        return min(max(desired, spec.min_replicas), spec.max_replicas)

    def _at_period_start(self, now_s: float, current: int, period_s: float) -> int:
        longest = max(policy.period_s for rules in (self.spec.up, self.spec.down) for policy in rules.policies)
        self._changes = [one for one in self._changes if one[0] > now_s - longest]
        return current - sum(change for at_s, change in self._changes if at_s > now_s - period_s)

    def _up_limit(self, now_s: float, current: int) -> int:
        rules = self.spec.up
        if rules.select == "Disabled":
            return current
        limits = []
        for policy in rules.policies:
            start = self._at_period_start(now_s, current, policy.period_s)
            # Rounded up, or a small percentage of few pods would never add one.
            percent = math.ceil(round(start * (1 + policy.value / 100), 9))
            limits.append(start + policy.value if policy.kind == "Pods" else percent)
        return max(limits) if rules.select == "Max" else min(limits)

    def _down_limit(self, now_s: float, current: int) -> int:
        rules = self.spec.down
        if rules.select == "Disabled":
            return current
        limits = []
        for policy in rules.policies:
            start = self._at_period_start(now_s, current, policy.period_s)
            percent = int(round(start * (1 - policy.value / 100), 9))
            limits.append(start - policy.value if policy.kind == "Pods" else percent)
        return min(limits) if rules.select == "Max" else max(limits)
