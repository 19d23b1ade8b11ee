"""Every alert fires in its state, names the right object, and stays silent next to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.chart.rules.promtest import RULES, Case, run_case, sku_labels

ALERTS = RULES / "alerts.yaml"
MINUTE = 60
POD = "d-6c9f7b5d4-x2x9z"
OTHER_POD = "other-6c9f7b5d4-x2x9z"
SKU = {"namespace": "n", "release": "r", "sku": "a"}


def cluster(step_s: int = 30) -> Case:
    """Return a case with the constants of one SKU: Deployment d, HorizontalPodAutoscaler h."""
    case = Case(step_s=step_s)
    values = {"info": 1.0, "init_budget_seconds": 600.0, "load_budget_seconds": 900.0, "warm_init_seconds": 120.0}
    for name, value in values.items():
        case.raw(f"trtbuild_sku_{name}" + sku_labels(deployment="d", horizontalpodautoscaler="h"), value)
    return case


def build_failing() -> Case:
    case = cluster()
    for pod in (POD, OTHER_POD):
        case.raw(
            f'kube_pod_init_container_status_restarts_total{{namespace="n", pod="{pod}", container="init"}}',
            "0x10 1x190",
        )
    case.fires("TrtbuildBuildFailing", 4 * MINUTE)
    case.fires("TrtbuildBuildFailing", 6 * MINUTE, {**SKU, "deployment": "d", "pod": POD})
    return case.fires("TrtbuildBuildFailing", 40 * MINUTE)


def init_pod(case: Case, running: str) -> Case:
    case.raw(f'kube_pod_start_time{{namespace="n", pod="{POD}"}}', 0)
    return case.raw(f'kube_pod_init_container_status_running{{namespace="n", pod="{POD}", container="init"}}', running)


def init_slow() -> Case:
    case = init_pod(cluster(), "1x40 0x100")
    case.fires("TrtbuildInitSlow", 9 * MINUTE)
    case.fires("TrtbuildInitSlow", 11 * MINUTE, {**SKU, "deployment": "d", "pod": POD})
    return case.fires("TrtbuildInitSlow", 25 * MINUTE)


def started_pods(case: Case, *init_s: float) -> Case:
    for number, duration in enumerate(init_s):
        pod = f"d-6c9f7b5d4-x2x9{number}"
        case.raw(f'kube_pod_status_scheduled_time{{namespace="n", pod="{pod}"}}', 100)
        case.raw(f'kube_pod_status_initialized_time{{namespace="n", pod="{pod}"}}', 100 + duration)
    return case


def cold_starts() -> Case:
    case = started_pods(cluster(), 1500, 1400, 20)
    case.expect("round(triton:sku_warm_starts:ratio, 0.01)", 20 * MINUTE, {sku_labels(): 0.33})
    return case.fires("TrtbuildColdStarts", 20 * MINUTE, SKU)


def warm_starts() -> Case:
    case = started_pods(cluster(), 1500, 14, 20)
    return case.fires("TrtbuildColdStarts", 20 * MINUTE).expect(
        "round(triton:sku_warm_starts:ratio, 0.01)", 20 * MINUTE, {sku_labels(): 0.67}
    )


def starts_are_forgotten_after_six_hours() -> Case:
    """Starts of 1520 s and 124 s after time 0 count for six hours: the alert speaks of today, not of last week."""
    case = started_pods(cluster(300), 1420, 24)
    ratio = "round(triton:sku_warm_starts:ratio, 0.01)"
    case.expect(ratio, 21_300, {sku_labels(): 0.5})  # both were initialized less than 21600 s ago
    case.expect(ratio, 22_200, {sku_labels(): 0})  # the warm one, at 124 s, has left the window
    return case.expect(ratio, 23_400, {})


def volume(case: Case, claim: str, pod: str, available: str) -> Case:
    volume_labels = f'namespace="n", persistentvolumeclaim="{claim}"'
    case.raw(f"kubelet_volume_stats_capacity_bytes{{{volume_labels}}}", 100)
    case.raw(f"kubelet_volume_stats_available_bytes{{{volume_labels}}}", available)
    return case.raw(f'kube_pod_spec_volumes_persistentvolumeclaims_info{{{volume_labels}, pod="{pod}", volume="v"}}', 1)


def disk_nearly_full() -> Case:
    case = volume(volume(cluster(60), "engines", POD, "9x100"), "foreign", OTHER_POD, "1x100")
    return case.fires("TrtbuildCacheDiskFilling", 600, {"namespace": "n", "persistentvolumeclaim": "engines"})


def disk_fills_within_a_day() -> Case:
    case = volume(cluster(60), "engines", POD, "29-0.05x100")
    return case.fires("TrtbuildCacheDiskFilling", 3600, {"namespace": "n", "persistentvolumeclaim": "engines"})


def disk_steady() -> Case:
    return volume(cluster(60), "engines", POD, "25x100").fires("TrtbuildCacheDiskFilling", 3600)


def node_disk_pressure() -> Case:
    case = cluster(60)
    for node, pod in (("gpu-1", POD), ("gpu-2", OTHER_POD)):
        case.raw(f'kube_node_status_condition{{node="{node}", condition="DiskPressure", status="true"}}', 1)
        case.raw(f'kube_pod_info{{namespace="n", pod="{pod}", node="{node}"}}', 1)
    return case.fires("TrtbuildNodeDiskPressure", 600, {"node": "gpu-1"})


def autoscaler(case: Case, current: int, most: int, waiting: str) -> Case:
    case.raw(
        'kube_horizontalpodautoscaler_status_current_replicas{namespace="n", horizontalpodautoscaler="h"}', current
    )
    case.raw('kube_horizontalpodautoscaler_spec_max_replicas{namespace="n", horizontalpodautoscaler="h"}', most)
    return case.raw("triton:sku_waiting:requests" + sku_labels(), waiting)


def at_max_while_the_queue_grows() -> Case:
    names = {**SKU, "deployment": "d", "horizontalpodautoscaler": "h"}
    return autoscaler(cluster(15), 4, 4, "0+5x100").fires("TrtbuildAtMaxReplicas", 600, names)


def at_max_and_the_queue_shrinks() -> Case:
    return autoscaler(cluster(15), 4, 4, "600-5x100").fires("TrtbuildAtMaxReplicas", 600)


def below_max() -> Case:
    return autoscaler(cluster(15), 3, 4, "0+5x100").fires("TrtbuildAtMaxReplicas", 600)


def deployment(case: Case, ready: int, wanted: int = 2) -> Case:
    case.raw('kube_deployment_status_replicas_ready{namespace="n", deployment="d"}', ready)
    case.raw('kube_deployment_status_replicas_ready{namespace="n", deployment="foreign"}', 0)
    case.raw('kube_deployment_spec_replicas{namespace="n", deployment="foreign"}', 1)
    return case.raw('kube_deployment_spec_replicas{namespace="n", deployment="d"}', wanted)


DEPLOYMENT = {**SKU, "deployment": "d", "horizontalpodautoscaler": "h"}


def no_ready_pod() -> Case:
    return deployment(cluster(), 0).fires("TrtbuildNoReadyPod", 900, DEPLOYMENT)


def no_ready_pod_but_building_in_budget() -> Case:
    case = init_pod(deployment(cluster(), 0), "1x100")
    # Its budget of 600 s ends; the alert fires five minutes later.
    return case.fires("TrtbuildNoReadyPod", 840).fires("TrtbuildNoReadyPod", 1000, DEPLOYMENT)


def no_ready_pod_but_loading_in_budget() -> Case:
    case = deployment(cluster(), 0)
    case.raw(f'kube_pod_status_initialized_time{{namespace="n", pod="{POD}"}}', 300)
    # Its load may last 900 s from there.
    return case.fires("TrtbuildNoReadyPod", 1480).fires("TrtbuildNoReadyPod", 1560, DEPLOYMENT)


def no_ready_pod_and_a_foreign_one_loads() -> Case:
    case = deployment(cluster(), 0)
    case.raw(f'kube_pod_status_initialized_time{{namespace="n", pod="{OTHER_POD}"}}', 300)
    return case.fires("TrtbuildNoReadyPod", 600, DEPLOYMENT)


def crashed_server_loads_again() -> Case:
    """The pod was ready until 1800 s; a container that starts again does not change when the pod was initialized."""
    case = cluster()
    case.raw('kube_deployment_status_replicas_ready{namespace="n", deployment="d"}', "1x60 0x100")
    case.raw('kube_deployment_spec_replicas{namespace="n", deployment="d"}', 1)
    case.raw(f'kube_pod_status_initialized_time{{namespace="n", pod="{POD}"}}', 300)
    return case.fires("TrtbuildNoReadyPod", 1800).fires("TrtbuildNoReadyPod", 2200, DEPLOYMENT)


def scaled_to_zero_is_no_alert() -> Case:
    return deployment(cluster(), 0, wanted=0).fires("TrtbuildNoReadyPod", 900)


def one_pod_ready() -> Case:
    return deployment(cluster(), 1).fires("TrtbuildNoReadyPod", 900)


def inactive(case: Case, *names: str) -> Case:
    """Add autoscalers whose condition ScalingActive is false."""
    for name in names:
        case.raw(
            "kube_horizontalpodautoscaler_status_condition"
            f'{{namespace="n", horizontalpodautoscaler="{name}", condition="ScalingActive", status="false"}}',
            1,
        )
    return case


UNKNOWN = {"namespace": "n", "horizontalpodautoscaler": "h"}


def target_unknown() -> Case:
    case = deployment(inactive(cluster(), "h", "foreign"), 1)
    return case.fires("TrtbuildHpaTargetUnknown", 240).fires("TrtbuildHpaTargetUnknown", 600, UNKNOWN)


def target_unknown_without_cluster_metrics_of_deployments() -> Case:
    return inactive(cluster(), "h").fires("TrtbuildHpaTargetUnknown", 600, UNKNOWN)


def scaled_to_zero_switches_the_autoscaler_off() -> Case:
    return deployment(inactive(cluster(), "h"), 0, wanted=0).fires("TrtbuildHpaTargetUnknown", 900)


def signal_missing() -> Case:
    return deployment(cluster(), 2).fires("TrtbuildSignalMissing", 600, DEPLOYMENT)


def signal_there() -> Case:
    case = deployment(cluster(), 2).add("triton:demand:ratio", 0)
    return case.fires("TrtbuildSignalMissing", 600)


def queueing() -> Case:
    case = cluster().raw("triton:sku_queue_compute:ratio" + sku_labels(), 1.5)
    case.raw("triton:sku_queue_compute:ratio" + sku_labels("b"), 0.9)
    return case.fires("TrtbuildQueueing", 900, SKU)


def error_rate() -> Case:
    case = cluster().raw("triton:sku_errors:ratio" + sku_labels(), 0.06)
    case.raw("triton:sku_errors:ratio" + sku_labels("b"), 0.04)
    return case.fires("TrtbuildErrorRate", 600, SKU)


def rejecting() -> Case:
    case = cluster().raw("triton:sku_rejected:ratio" + sku_labels(), 0.5)
    case.raw("triton:sku_rejected:ratio" + sku_labels("b"), 0)
    return case.fires("TrtbuildRejecting", 600, SKU)


CASES = (
    build_failing,
    init_slow,
    cold_starts,
    warm_starts,
    starts_are_forgotten_after_six_hours,
    disk_nearly_full,
    disk_fills_within_a_day,
    disk_steady,
    node_disk_pressure,
    at_max_while_the_queue_grows,
    at_max_and_the_queue_shrinks,
    below_max,
    no_ready_pod,
    no_ready_pod_but_building_in_budget,
    no_ready_pod_but_loading_in_budget,
    no_ready_pod_and_a_foreign_one_loads,
    crashed_server_loads_again,
    scaled_to_zero_is_no_alert,
    one_pod_ready,
    target_unknown,
    target_unknown_without_cluster_metrics_of_deployments,
    scaled_to_zero_switches_the_autoscaler_off,
    signal_missing,
    signal_there,
    queueing,
    error_rate,
    rejecting,
)


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_alert(build: Callable[[], Case], tmp_path: Path) -> None:
    run_case(build(), tmp_path, ALERTS)


def test_every_alert_has_a_case_and_says_what_to_do() -> None:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    tested = {str(e["expr"]) for build in CASES for e in build().expressions}
    assert len(alerts) >= 8
    for alert in alerts:
        assert any(f'"{alert["alert"]}"' in expression and "count by" in expression for expression in tested)
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert len(alert["annotations"]["description"]) > 40
