"""The simulator: its pods against queueing theory, its Prometheus against the formulas, its runs against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.autoscaling import traces
from benchmarks.autoscaling.__main__ import main
from benchmarks.autoscaling.balancing import Balancer, KubeProxy, LeastRequest, StickyConnections, WeightedRoute
from benchmarks.autoscaling.model import A100_LIKE, H100_LIKE, Pod, PodState, Requests, StartUp
from benchmarks.autoscaling.panels import TOP, Panel, document, style
from benchmarks.autoscaling.policies import (
    CAP,
    FIXED,
    ORACLE,
    POD_GROUP_S,
    QUEUE_COUNTS_FROM,
    RANGE_S,
    SHIPPED,
    SMOOTH_S,
    Autoscaling,
    demand,
    demand_of,
)
from benchmarks.autoscaling.promql import rate
from benchmarks.autoscaling.simulate import Group, Scenario, simulate
from trtclient.load.svg import Line

ONE = (Group(sku=A100_LIKE),)


def requests(*tokens: float, arrivals: tuple[float, ...] | None = None, patience_s: float = 120.0) -> Requests:
    count = len(tokens)
    return Requests(
        arrival_s=list(arrivals or [0.0] * count),
        tokens=list(tokens),
        patience_s=patience_s,
        wait_s=[-1.0] * count,
        done_s=[-1.0] * count,
    )


def run_pod(pod: Pod, until_s: float) -> None:
    while 0 <= pod.next_done_s() <= until_s:
        now_s = pod.next_done_s()
        pod.advance(now_s)
        pod.complete(now_s)
    pod.advance(until_s)


def test_one_request_alone_runs_at_full_speed() -> None:
    work = requests(100)
    pod = Pod(number=0, sku=A100_LIKE, requests=work, created_s=0.0)
    pod.arrive(0, 0.0)
    run_pod(pod, 60.0)
    assert work.done_s[0] == pytest.approx(100 * (0.012 + 0.0003))
    assert pod.compute_s == pytest.approx(work.done_s[0])
    assert pod.queue_s == 0


def test_two_requests_share_and_the_rest_speeds_up() -> None:
    work = requests(100, 200)
    pod = Pod(number=0, sku=A100_LIKE, requests=work, created_s=0.0)
    pod.arrive(0, 0.0)
    pod.arrive(1, 0.0)
    run_pod(pod, 60.0)
    assert work.done_s == pytest.approx([100 * 0.0126, 100 * 0.0126 + 100 * 0.0123])


def test_a_full_pod_makes_wait_in_order_and_counts_it() -> None:
    sku = replace(A100_LIKE, slots=1)
    work = requests(100, 100, 100)
    pod = Pod(number=0, sku=sku, requests=work, created_s=0.0)
    for index in range(3):
        pod.arrive(index, 0.0)
    run_pod(pod, 60.0)
    each = 100 * 0.0123
    assert work.wait_s == pytest.approx([0, each, 2 * each])
    assert pod.queue_s == pytest.approx(3 * each)
    assert pod.compute_s == pytest.approx(3 * each)
    assert pod.done_queue_s == pytest.approx(3 * each)


def test_a_client_gives_up_and_leaves_no_waiting_behind() -> None:
    sku = replace(A100_LIKE, slots=1)
    work = requests(10_000, 100, patience_s=5.0)
    pod = Pod(number=0, sku=sku, requests=work, created_s=0.0)
    pod.arrive(0, 0.0)
    pod.arrive(1, 0.0)
    pod.advance(20.0)
    assert not pod.waiting
    assert pod.queue_s == pytest.approx(5.0)
    assert work.done_s[1] == -1


def test_capacity_is_what_the_linear_law_says() -> None:
    """At full slots a pod ends as many requests as slots / (base + share x slots) tokens allow."""
    scenario = Scenario(trace=traces.constant(40.0, 600.0), groups=ONE, balancer=KubeProxy, patience_s=30.0)
    result = simulate(scenario, FIXED, 1)
    done = result.requests - result.unanswered
    assert done / 630.0 == pytest.approx(A100_LIKE.tokens_per_s / traces.WORK_TOKENS, rel=0.06)


@pytest.mark.parametrize(
    ("times", "values", "expected"),
    [
        pytest.param([5, 10, 15, 20, 25, 30], [0, 5, 10, 15, 20, 25], 25 / 30, id="starts at zero: not before"),
        pytest.param([5, 10, 15, 20, 25, 30], [100, 105, 110, 115, 120, 125], 1.0, id="whole window"),
        pytest.param([20, 25, 30], [100, 105, 110], 12.5 / 30, id="young: half a gap before the first"),
        pytest.param([30], [1], None, id="one sample"),
        pytest.param([], [], None, id="none"),
    ],
)
def test_rate_extrapolates_as_prometheus_does(times: list[float], values: list[float], expected: float | None) -> None:
    got = rate(times, values, 30.0, 30.0)
    assert got == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("smoothed", "now", "k", "expected"),
    [
        pytest.param(0.0, 0.0, 1.4, 0.0, id="idle"),
        pytest.param(0.5, 0.5, 0.0, 0.5, id="no batching effect"),
        pytest.param(0.5, 0.5, 1.4, 0.5 * 2.4 / 1.7, id="half busy"),
        pytest.param(1.0, 1.0, 1.4, 1.0, id="full"),
        pytest.param(0.2, 2.5, 1.4, 2.5, id="a queue counts at once"),
        pytest.param(9.0, 0.9, 1.4, 1.0, id="a past queue is at most full"),
        pytest.param(0.0, 50.0, 1.4, CAP, id="capped"),
        pytest.param(1.0, QUEUE_COUNTS_FROM, 1.4, 1.0, id="a short queue is smoothed"),
    ],
)
def test_demand(smoothed: float, now: float, k: float, expected: float) -> None:
    assert demand_of(smoothed, now, k) == pytest.approx(expected)


def test_the_simulated_signal_has_the_shipped_rules_constants() -> None:
    text = (Path(__file__).parents[3] / "chart" / "files" / "rules" / "recording.yaml").read_text(encoding="utf-8")
    groups = {group["name"]: group for group in yaml.safe_load(text)["groups"]}
    rules = {rule["record"]: rule["expr"] for group in groups.values() for rule in group["rules"]}
    assert groups["trtbuild-pod"]["interval"] == f"{POD_GROUP_S:g}s"
    assert groups["trtbuild-signal"]["interval"] == f"{SHIPPED.rule_s:g}s"
    assert f"> {QUEUE_COUNTS_FROM:g},\n  {CAP:g}\n)" in rules["triton:demand:ratio"]
    assert f"[{SMOOTH_S / 60:g}m]" in rules["triton:demand_smoothed:ratio"]
    assert f"[{RANGE_S:g}s]" in rules["triton:waiting:requests"]


def test_demand_is_linear_in_load_with_the_true_k() -> None:
    """Half of the capacity reads 0.5: that is what k is for."""
    signal = demand(batching_factor=None)
    rps = 0.5 * A100_LIKE.tokens_per_s / traces.WORK_TOKENS
    seen: list[float] = []

    def spy(samples, sku, at_s):  # type: ignore[no-untyped-def]
        value = signal(samples, sku, at_s)
        if at_s > 300 and value is not None:
            seen.append(value)
        return value

    policy = Autoscaling(name="spy", signal=spy, target=1e6)
    simulate(Scenario(trace=traces.constant(rps, 3600.0), groups=ONE, balancer=KubeProxy), policy, 3)
    assert len(seen) > 100
    assert np.mean(seen) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("policy", [SHIPPED, ORACLE], ids=["shipped", "oracle"])
def test_equal_seeds_give_equal_runs(policy: Autoscaling) -> None:
    scenario = Scenario(trace=short_step(), groups=ONE, balancer=KubeProxy, scrape_loss=0.05)
    assert simulate(scenario, policy, 5) == simulate(scenario, policy, 5)
    assert simulate(scenario, policy, 5) != simulate(scenario, policy, 6)


def short_step() -> traces.Trace:
    def rate_at(t: traces.Times) -> traces.Times:
        return np.where(t >= 300.0, 25.0, 4.0)

    return traces.Trace(name="short", duration_s=900.0, rate_at=rate_at, peak_rps=25.0)


def test_a_step_scales_up_and_pays_only_for_its_pods() -> None:
    result = simulate(Scenario(trace=short_step(), groups=ONE, balancer=KubeProxy), SHIPPED, 1)
    assert result.ups >= 1
    assert max(sum(point.desired) for point in result.points) >= 3
    ready_h = result.mean_ready[0] * 900 / 3600
    assert ready_h <= result.gpu_hours <= 10 * 900 / 3600


def test_lost_scrapes_never_scale_down() -> None:
    """Half of all scrapes fail at constant load: the same replicas as without failures, give or take one."""
    scenario = Scenario(trace=traces.constant(20.0, 1800.0), groups=ONE, balancer=KubeProxy)
    whole = simulate(scenario, SHIPPED, 2)
    lossy = simulate(replace(scenario, scrape_loss=0.5), SHIPPED, 2)
    assert lossy.downs <= whole.downs + 1
    assert lossy.points[-1].desired[0] >= whole.points[-1].desired[0] - 1


def test_cold_pods_take_longer_and_are_kept() -> None:
    start = StartUp(cold_share=1.0, cold_init_s=400.0)
    scenario = Scenario(trace=short_step(), groups=ONE, balancer=KubeProxy, start=start)
    assert SHIPPED.down_for(start).window_s == pytest.approx(1.5 * 445.0)
    cold = simulate(scenario, SHIPPED, 1)
    warm = simulate(replace(scenario, start=StartUp()), SHIPPED, 1)
    assert cold.deleted_starting == 0
    assert cold.attainment < warm.attainment


def test_a_group_without_gpus_keeps_pods_pending_and_costs_nothing() -> None:
    groups = (Group(sku=A100_LIKE, stock=1), Group(sku=H100_LIKE))
    scenario = Scenario(trace=short_step(), groups=groups, balancer=LeastRequest)
    result = simulate(scenario, replace(SHIPPED, prefer_cheap=True), 1)
    assert all(point.ready[0] <= 1 for point in result.points)
    assert any(point.desired[0] > 1 or point.desired[1] > 1 for point in result.points)
    assert result.gpu_hours <= (1 + 10) * 900 / 3600


def make_pods(count: int) -> list[Pod]:
    work = requests(*[1000.0] * 2000)
    pods = []
    for number in range(count):
        sku = A100_LIKE if number % 2 == 0 else H100_LIKE
        pod = Pod(number=number, sku=sku, requests=work, created_s=0.0)
        pod.state = PodState.READY
        pods.append(pod)
    return pods


BALANCERS: list[Callable[[], Balancer]] = [
    lambda: KubeProxy(1),
    lambda: LeastRequest(1),
    lambda: LeastRequest(1, proxies=3),
    lambda: LeastRequest(1, choices=2),
    lambda: WeightedRoute(1, {"a100-like": 1.0, "h100-like": 2.0}, follow=True),
    lambda: WeightedRoute(1, {"a100-like": 1.0, "h100-like": 2.0}, follow=False),
    lambda: StickyConnections(1, connections=20),
]
NAMES = ["kube-proxy", "least-request", "three-proxies", "two-choices", "route-follow", "route-fixed", "sticky"]


@pytest.mark.parametrize("make", BALANCERS, ids=NAMES)
def test_balancers_use_ready_pods_only(make: Callable[[], Balancer]) -> None:
    balancer, pods = make(), make_pods(6)
    assert balancer.pick(0) is None
    for pod in pods:
        balancer.add(pod)
    balancer.remove(pods[0])
    balancer.remove(pods[5])
    picked = [balancer.pick(index) for index in range(500)]
    assert {pod.number for pod in picked if pod is not None} == {1, 2, 3, 4}


@pytest.mark.parametrize(("choices", "share"), [pytest.param(0, 1.0, id="all"), pytest.param(2, 0.75, id="two")])
def test_least_request_prefers_the_idle_pod(choices: int, share: float) -> None:
    balancer, pods = LeastRequest(1, choices=choices), make_pods(2)
    for pod in pods:
        balancer.add(pod)
    for index in range(50):
        pods[0].arrive(index, 0.0)
    picked = [balancer.pick(index) for index in range(400)]
    assert picked.count(pods[1]) == pytest.approx(share * 400, abs=40 * (share < 1))


def test_least_request_breaks_ties_at_random() -> None:
    balancer, pods = LeastRequest(1), make_pods(4)
    for pod in pods:
        balancer.add(pod)
    picked = [balancer.pick(index) for index in range(400)]
    assert {pod.number: picked.count(pod) for pod in pods} == pytest.approx(dict.fromkeys(range(4), 100), abs=40)


def test_route_weights_hold_whatever_the_number_of_pods() -> None:
    pods = make_pods(8)
    kept = [pods[0], pods[1], pods[3], pods[5], pods[7]]
    for follow, expected in ((False, 2 / 3), (True, 8 / 9)):
        balancer = WeightedRoute(1, {"a100-like": 1.0, "h100-like": 2.0}, follow=follow)
        for pod in kept:
            balancer.add(pod)
        picked = [balancer.pick(index) for index in range(3000)]
        share = sum(pod is not None and pod.sku is H100_LIKE for pod in picked) / 3000
        assert share == pytest.approx(expected, abs=0.03)


def test_long_lived_connections_ignore_new_pods_until_they_are_closed() -> None:
    for max_age_s, expected in ((None, False), (60.0, True)):
        balancer, pods = StickyConnections(1, connections=20, max_age_s=max_age_s), make_pods(2)
        balancer.add(pods[0])
        assert all(balancer.pick(index) is pods[0] for index in range(100))
        balancer.add(pods[1])
        balancer.now_s = 100.0
        assert any(balancer.pick(index) is pods[1] for index in range(200)) is expected


def test_step_and_day_have_the_rates_they_say() -> None:
    step = traces.step().arrivals(1)
    assert np.sum(step < 2400) == pytest.approx(5 * 2400, rel=0.05)
    assert np.sum((step >= 2400) & (step < 7200)) == pytest.approx(30 * 4800, rel=0.02)
    day = traces.diurnal().arrivals(1)
    assert len(day) == pytest.approx(20 * 14400, rel=0.02)
    assert np.all(np.diff(day) >= 0)


def test_answers_have_the_mean_they_say() -> None:
    assert traces.step().work(200_000, 1).mean() == pytest.approx(traces.WORK_TOKENS, rel=0.01)


def test_a_recorded_load_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text("seconds,tokens\n" + "".join(f"{100 + t},5\n" for t in range(120)), encoding="utf-8")
    trace = traces.replay(path)
    assert trace.arrivals(1).tolist() == [float(t) for t in range(120)]
    assert trace.rate_at(np.asarray([30.0]))[0] == 1.0
    (tmp_path / "empty.csv").write_text("seconds\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no arrival times"):
        traces.replay(tmp_path / "empty.csv")


def test_the_command_replays_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "load.csv"
    path.write_text("".join(f"{t / 4}\n" for t in range(1200)), encoding="utf-8")
    assert main(["replay", str(path), "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    assert "demand 0.8 (shipped)" in capsys.readouterr().out
    svg = (tmp_path / "out" / "replay.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg") and "waiting requests" in svg


def test_a_chart_is_well_formed_and_escapes_names() -> None:
    from xml.etree import ElementTree

    line = Line(label="a<b & c", points=[(0, 0), (1, 3), (2, math.pi)], style=style(9), is_step=True)
    root = ElementTree.fromstring(document("t < u", [Panel(title="p", lines=[line]), Panel(title="q", lines=[line])]))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"a<b & c", "t < u", "p", "q", "minutes"} <= set(texts)
    drawn = [element.get("d", "") for element in root.iter() if element.tag.endswith("path")]
    assert sum(path.count("L") == 4 for path in drawn) == 2, "a staircase in each panel"


def test_what_is_above_the_top_of_a_panel_stays_inside_and_an_empty_panel_is_drawn() -> None:
    from xml.etree import ElementTree

    line = Line(label="x", points=[(0, 1), (1, 100)], style="a")
    root = ElementTree.fromstring(document("t", [Panel(title="p", lines=[line], top=4.0), Panel(title="q", lines=[])]))
    (path,) = [e.get("d", "") for e in root.iter() if e.tag.endswith("path") and "L" in e.get("d", "")]
    assert path.endswith(f" {TOP}.0") or path.endswith(f" {TOP}")
