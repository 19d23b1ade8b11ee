"""Which hop from a server's metrics to a replica count is broken first, and how to fix it. Pure.

A hop whose document could not be had is not known; it is never called broken.
"""

from __future__ import annotations

from trtbuild.autoscaling.cluster import judge_autoscaler, judge_metrics_api, judge_pods, judge_scaled_object
from trtbuild.autoscaling.evidence import Evidence
from trtbuild.autoscaling.hops import Hop
from trtbuild.autoscaling.prometheus import judge_endpoint, judge_rule, judge_series, judge_target


def walk(evidence: Evidence) -> tuple[Hop, ...]:
    """Return every hop up to and including the first broken one; what comes after it cannot be judged."""
    hops: list[Hop] = []
    for look in (
        judge_pods,
        judge_endpoint,
        judge_target,
        judge_rule,
        judge_series,
        judge_scaled_object,
        judge_metrics_api,
        judge_autoscaler,
    ):
        hop = look(evidence)
        if hop:
            hops.append(hop)
            if hop.is_ok is False:
                break
    return tuple(hops)
