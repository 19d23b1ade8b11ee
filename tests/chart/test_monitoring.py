"""Monitors, rules and dashboards: what is scraped is what the rules read, and every expression is one."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, GATEWAY, KEDA, RenderError, ci_values, merge, render
from tests.chart.rules.promtest import Case, run_case

ONE = ci_values("one-sku")
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
RULES = CHART / "files" / "rules"
METRIC = re.compile(r"\b((?:trtbuild|nv|triton|kube|kubelet|DCGM)[A-Za-z0-9_:]+)")


def check_expressions(promtool: str, folder: Path, expressions: list[str]) -> None:
    """Fail when promtool refuses an expression."""
    rules = [{"record": f"check:{i}", "expr": expression} for i, expression in enumerate(expressions)]
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "check", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(expressions)} rules found" in done.stdout


def rule_specs(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item["spec"] for item in render(values).kind("PrometheusRule")}


def groups_of(path: Path) -> list[dict[str, Any]]:
    """Return the groups of a rule file."""
    groups = yaml.safe_load(path.read_text())["groups"]
    assert isinstance(groups, list)
    return groups


def with_source(source: str) -> dict[str, Any]:
    """Return values for a source of the rules; the full layout has the models of each."""
    return {"server": {"layout": "full"}, "monitoring": {"rules": {"source": source}}}


def expressions(spec: dict[str, Any]) -> str:
    return "\n".join(rule["expr"] for group in spec["groups"] for rule in group["rules"])


@pytest.mark.parametrize("source", ["front", "upstream-ensemble", "cpp-gauges"])
def test_rendered_rules_pass_promtool(source: str, promtool: str, tmp_path: Path) -> None:
    specs = rule_specs(merge(ci_values("three-skus"), with_source(source)))
    assert set(specs) == {"llama-trtbuild-recording", "llama-trtbuild-alerts"}
    for name, spec in specs.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec))
        command = [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_of_this_release_only() -> None:
    for spec in rule_specs(ONE).values():
        text = expressions(spec)
        assert not re.search(r'(release|namespace)=~"\.\+"', text)
        assert "@" not in text
        assert text.count('namespace="inference"') >= text.count('release="llama"') > 3 or "alert" in str(spec)


def test_constants_of_each_sku() -> None:
    spec = rule_specs(ci_values("three-skus"))["llama-trtbuild-recording"]
    groups = {group["name"]: group["rules"] for group in spec["groups"]}
    h100 = {rule["record"]: rule for rule in groups["trtbuild-constants-llama-h100"]}
    values = {name: rule["expr"] for name, rule in h100.items()}
    assert values == {
        "trtbuild_sku_info": "vector(1)",
        "trtbuild_sku_batching_factor": "vector(2.2)",
        "trtbuild_sku_weight": "vector(2.5)",
        "trtbuild_sku_cost_per_hour": "vector(6)",
        "trtbuild_sku_target": "vector(0.8)",
        # Per weight a10g costs 2, h100 2.4 and a100 3: eight a10g of 0.5 come first, one a100 runs anyway.
        "trtbuild_sku_capacity_before": "vector(5)",
        "trtbuild_sku_init_budget_seconds": "vector(3600)",
        "trtbuild_sku_load_budget_seconds": "vector(600)",
        "trtbuild_sku_warm_init_seconds": "vector(120)",
    }
    assert h100["trtbuild_sku_info"]["labels"] == {
        "namespace": "inference",
        "release": "llama",
        "sku": "h100",
        "deployment": "llama-trtbuild-h100",
        "horizontalpodautoscaler": "llama-trtbuild-h100",
    }


SOURCES = {
    "front": "recording.yaml",
    "upstream-ensemble": "recording-upstream-ensemble.yaml",
    "cpp-gauges": "recording-cpp-gauges.yaml",
}


def windows(text: str) -> list[int]:
    """Return every range of the expressions in seconds, in order."""
    found = re.findall(r"\[(\d+)([smh])\]", text)
    assert len(found) == len(re.findall(r"\[\d", text))
    return [int(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in found]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("interval", [1, 5, 7, 8, 10, 12, 15])
def test_windows_hold_four_scrapes(interval: int, source: str) -> None:
    """A window of 30 s becomes one of four scrapes, one of 15 s one of three; longer ones hold four anyway."""
    values = merge(ONE, with_source(source), {"monitoring": {"interval": interval}})
    written = windows("\n".join(r["expr"] for g in groups_of(RULES / SOURCES[source]) for r in g["rules"]))
    spec = rule_specs(values)["llama-trtbuild-recording"]
    rendered = windows("\n".join(r["expr"] for g in spec["groups"] for r in g["rules"] if "constants" not in g["name"]))
    wider = {30: max(30, 4 * interval), 15: max(15, 3 * interval)}
    assert rendered == [wider.get(window, window) for window in written]
    assert {15, 30} & set(written)
    assert all(window >= (3 if window == wider[15] else 4) * interval for window in rendered)
    endpoint = render(values).one("PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert endpoint["interval"] == endpoint["scrapeTimeout"] == f"{interval}s"


def test_longest_interval_fits_the_windows_that_are_not_widened() -> None:
    """The schema refuses an interval of which the shortest fixed window does not hold four scrapes."""
    for interval in (16, 30, 60):
        with pytest.raises(RenderError, match="interval"):
            render(merge(ONE, {"monitoring": {"interval": interval}}))
    texts = [path.read_text() for path in RULES.glob("*.yaml")]
    fixed = {window for text in texts for window in windows(re.sub(r"#.*", "", text))} - {15, 30}
    assert min(fixed) >= 4 * 15


@pytest.mark.parametrize("source", SOURCES)
def test_groups_are_evaluated_as_often_as_the_files_say(source: str) -> None:
    """The intervals, in order: what is slow on purpose stays slow, and the signal stays fast."""
    specs = rule_specs(merge(ONE, with_source(source)))
    for name, path in (("recording", SOURCES[source]), ("alerts", "alerts.yaml")):
        rendered = [(group["name"], group["interval"]) for group in specs[f"llama-trtbuild-{name}"]["groups"]]
        written = [(group["name"], group["interval"]) for group in groups_of(RULES / path)]
        assert [item for item in rendered if "constants" not in item[0]] == written
    assert ("trtbuild-signal", "5s") in [(g["name"], g["interval"]) for g in groups_of(RULES / SOURCES[source])]


@pytest.mark.parametrize("interval", [5, 15])
def test_a_lost_scrape_does_not_move_the_signal(interval: int, tmp_path: Path) -> None:
    """The rendered rules at the longest interval: one scrape fails, and the pod with a queue keeps its demand."""
    spec = rule_specs(merge(ONE, {"monitoring": {"interval": interval}}))["llama-trtbuild-recording"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(spec))
    pod = 'namespace="inference", pod="p", release="llama", sku="a100"'
    case = Case()
    every, lost = interval // case.step_s, 150 // interval
    gaps = " _" * (every - 1)

    def scraped(first: float, growth: float) -> str:
        """Return a series with one failed scrape, which Prometheus marks as stale."""
        texts = [f"{first + growth * interval * i:g}" if i != lost else "stale" for i in range(2 * lost)]
        return " ".join(text + gaps for text in texts)

    case.raw(f'up{{{pod}, job="j"}}', " ".join(("0" if i == lost else "1") + gaps for i in range(2 * lost)))
    for name, first, growth in (
        ("trtbuild_requests_waiting", 128, 0),
        ("trtbuild_requests_running", 64, 0),
        ("trtbuild_request_slots", 64, 0),
        ("trtbuild_request_queue_seconds_total", 0, 128),
        ("trtbuild_request_compute_seconds_total", 0, 64),
    ):
        case.raw(f'{name}{{{pod}, model="m", version="1"}}', scraped(first, growth))
    for at_s in range(lost * interval - 30, lost * interval + 60, case.step_s):
        case.expect("round(triton:demand:ratio, 0.01)", at_s, {f"{{{pod}}}": 3})
    run_case(case, tmp_path, path)


def test_scraping_keeps_every_series_that_is_read() -> None:
    """Each raw series of any rule file or dashboard passes the relabeling that drops the rest."""
    endpoint = render(ONE).one("PodMonitor")["spec"]["podMetricsEndpoints"][0]
    [keep] = [item for item in endpoint["metricRelabelings"] if item["action"] == "keep"]
    texts = [path.read_text() for path in RULES.glob("recording*.yaml")]
    texts += [target["expr"] for path in DASHBOARDS for panel in panels(path) for target in panel["targets"]]
    code = "\n".join(line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#"))
    raw = {
        name
        for name in METRIC.findall(code)
        if name.startswith(("trtbuild_", "nv_")) and not name.startswith("trtbuild_sku_")
    }
    assert len(raw) > 12
    dropped = {name for name in raw if not re.fullmatch(keep["regex"], name)}
    assert dropped == {name for name in raw if "_sku" in name or name.startswith("trtbuild-")}
    assert not re.fullmatch(keep["regex"], "nv_pinned_memory_pool_total_bytes")


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_series_carry_sku_and_release(kind: str) -> None:
    rendered = render(merge(ONE, {"monitoring": {"scrape": kind}}))
    spec = rendered.one(kind)["spec"]
    [endpoint] = spec.get("podMetricsEndpoints") or spec["endpoints"]
    labels = {item["targetLabel"]: item["sourceLabels"] for item in endpoint["relabelings"]}
    assert labels == {
        "release": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"],
        "sku": ["__meta_kubernetes_pod_label_trtbuild_dev_sku"],
    }
    pod = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert (pod["app.kubernetes.io/instance"], pod["trtbuild.dev/sku"]) == ("llama", "a100")
    server = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert endpoint["port"] in {port["name"] for port in server["ports"]}


@pytest.mark.parametrize("balancing", ["kube-proxy", "envoy", "gateway"])
def test_service_monitor_reads_each_pod_once(balancing: str) -> None:
    route = {"enabled": True, "parentRefs": [{"name": "public"}]}
    values = merge(
        ci_values("three-skus"), {"monitoring": {"scrape": "ServiceMonitor"}, "balancing": {"type": balancing}}
    )
    rendered = render(merge(values, {"httpRoute": route} if balancing == "gateway" else {}))
    selector = rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    found = [item for item in rendered.kind("Service") if selector.items() <= item["metadata"]["labels"].items()]
    assert len(found) == 1
    assert found[0]["spec"]["selector"] == {"trtbuild.dev/service": "llama-trtbuild"}
    assert "metrics" in {port["name"] for port in found[0]["spec"]["ports"]}


@pytest.mark.parametrize(
    ("values", "apis", "kinds"),
    [
        pytest.param({}, (), set(), id="no API"),
        pytest.param({"assumeApis": ["monitoring.coreos.com/v1"]}, (), {"PodMonitor", "PrometheusRule"}, id="assumed"),
        pytest.param({}, (KEDA, GATEWAY, "monitoring.coreos.com/v1"), {"PodMonitor", "PrometheusRule"}, id="present"),
        pytest.param(
            {"monitoring": {"scrape": "none"}}, ("monitoring.coreos.com/v1",), {"PrometheusRule"}, id="no monitor"
        ),
        pytest.param(
            {"monitoring": {"rules": {"enabled": False}}}, ("monitoring.coreos.com/v1",), {"PodMonitor"}, id="no rules"
        ),
        pytest.param(
            {"monitoring": {"scrape": "ServiceMonitor"}},
            ("monitoring.coreos.com/v1",),
            {"ServiceMonitor", "PrometheusRule"},
            id="service monitor",
        ),
    ],
)
def test_monitoring_objects(values: dict[str, Any], apis: tuple[str, ...], kinds: set[str]) -> None:
    rendered = render(merge(ONE, values), apis=apis)
    found = {item["kind"] for item in rendered.objects if item["apiVersion"] == "monitoring.coreos.com/v1"}
    assert found == kinds


def test_alerts_can_be_left_out() -> None:
    assert set(rule_specs(merge(ONE, {"monitoring": {"rules": {"alerts": False}}}))) == {"llama-trtbuild-recording"}


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def substitute(expression: str) -> str:
    """Return a panel's expression with its variables filled in, as Grafana does for "All"."""
    return re.sub(r"\$(namespace|release|sku|pod)\b", ".+", expression)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_expressions_pass_promtool(path: Path, promtool: str, tmp_path: Path) -> None:
    found = [substitute(target["expr"]) for panel in panels(path) for target in panel["targets"]]
    assert len(found) >= 10
    check_expressions(promtool, tmp_path, found)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_is_sound(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"].startswith("trtbuild-")
    variables = {item["name"] for item in board["templating"]["list"]}
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(identifiers) == len(set(identifiers))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables


def test_dashboards_show_what_scaling_is_about() -> None:
    text = "\n".join(target["expr"] for path in DASHBOARDS for panel in panels(path) for target in panel["targets"])
    for series in (
        "triton:sku_waiting:requests",
        "triton:sku_running:requests",
        "triton:sku_slots:requests",
        "triton:sku_queue_compute:ratio",
        "triton:demand:ratio",
        "trtbuild_time_to_first_token_seconds_bucket",
        "kube_horizontalpodautoscaler_status_desired_replicas",
        "kube_deployment_status_replicas_ready",
    ):
        assert series in text


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_the_front_model_say_so(path: Path) -> None:
    """With a fallback rule file they stay empty, and the panel tells why."""
    for panel in panels(path):
        read = {name for t in panel["targets"] for name in METRIC.findall(t["expr"])}
        is_front = any(name.startswith("trtbuild_") and not name.startswith("trtbuild_sku_") for name in read)
        assert ("empty for repositories without it" in panel.get("description", "")) is is_front, panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_read_only_recorded_series(path: Path) -> None:
    """Each triton:* and trtbuild_sku_* series of a panel is recorded by the front model's or the alerts' rules."""
    texts = [(RULES / name).read_text() for name in ("recording.yaml", "alerts.yaml", "sku.yaml.tpl")]
    recorded = set(re.findall(r"record: (\S+)", "\n".join(texts)))
    read = {name for panel in panels(path) for t in panel["targets"] for name in METRIC.findall(t["expr"])}
    assert {name for name in read if name.startswith(("triton:", "trtbuild_sku_"))} <= recorded


def test_dashboards_become_config_maps() -> None:
    rendered = render(merge(ONE, {"monitoring": {"dashboards": {"annotations": {"grafana_folder": "LLM"}}}}))
    found = [item for item in rendered.kind("ConfigMap") if item["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert {name for item in found for name in item["data"]} == {path.name for path in DASHBOARDS}
    for item in found:
        [(name, text)] = item["data"].items()
        assert json.loads(text) == json.loads((CHART / "files" / "dashboards" / name).read_text())
        assert item["metadata"]["annotations"]["grafana_folder"] == "LLM"
    off = render(merge(ONE, {"monitoring": {"dashboards": {"enabled": False}}}))
    assert len(off.kind("ConfigMap")) == len(rendered.kind("ConfigMap")) - len(DASHBOARDS)


def test_adapter_queries_pass_promtool(promtool: str, tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "monitoring" / "prometheus-adapter.yaml").read_text())
    queries = []
    for rule in values["rules"]["custom"]:
        queries.append(rule["seriesQuery"])
        resources = {item["resource"]: label for label, item in rule["resources"]["overrides"].items()}
        assert set(resources) == {"namespace", "pod"}
        matchers = f'{resources["namespace"]}="inference",{resources["pod"]}=~"a|b"'
        query = rule["metricsQuery"].replace("<<.Series>>", "some:series").replace("<<.LabelMatchers>>", matchers)
        queries.append(query.replace("<<.GroupBy>>", resources["pod"]))
    assert not any("<<" in query for query in queries)
    check_expressions(promtool, tmp_path, queries)
    assert values["rules"]["default"] is False
    relist = int(values["metricsRelistInterval"].removesuffix("s"))
    [age] = [item for item in values["extraArguments"] if item.startswith("--metrics-max-age=")]
    assert int(age.removeprefix("--metrics-max-age=").removesuffix("s")) >= 3 * relist


@pytest.mark.parametrize("path", sorted((CHART / "monitoring").glob("*.yaml")), ids=lambda path: path.stem)
def test_monitoring_values_are_yaml_with_a_reason(path: Path) -> None:
    text = path.read_text()
    assert isinstance(yaml.safe_load(text), dict)
    assert text.startswith("# Values of ")
