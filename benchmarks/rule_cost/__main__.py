"""Measure rule evaluation: ``python -m benchmarks.rule_cost [--pods 1000] [--seconds 180]``.

Both rule sets run in one Prometheus over the same scrapes, so other load on the machine hits both alike. Cost is
evaluation seconds per minute: the shortest duration of a group that was seen (the others waited for a processor) times
its evaluations per minute. A group that runs seldom has few durations to be the shortest of, so the ratio of the means
is told too. Exit code 1 where ours cost more than a quarter of the origin's by either.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.prometheus import RULES, Prometheus, scoped_rules
from benchmarks.rule_cost.exporter import Exporter

SCRAPE_S = 15
SKUS = 3
WARM_UP_S = 75
GOAL = 0.25

# Source: triton-inference-server/tutorials, TensorRT-LLM_Autoscaling_and_Load_Balancing,
# triton-metrics_prometheus-rule.yaml: four rules every 6 s over a window of a minute, per Triton model.
ORIGIN = """groups:
  - name: origin
    interval: 6s
    rules:
"""
for _record, _top, _bottom in (
    ("queue_compute:ratio", "queue_duration_us", "compute_infer_duration_us"),
    ("request_duration:average", "request_duration_us", "request_success"),
    ("compute_duration:average", "compute_infer_duration_us", "request_success"),
    ("queue_duration:average", "queue_duration_us", "request_success"),
):
    ORIGIN += f"""      - record: origin:{_record}
        expr: rate(nv_inference_{_top}[1m]) / clamp_min(rate(nv_inference_{_bottom}[1m]), 1)
"""


def sku_constants(number: int) -> str:
    """Return the rule group with a SKU's constants, as the chart renders it; without it the joins find nothing."""
    values = {
        "NAMESPACE": "n",
        "RELEASE": "r",
        "SKU": f"sku-{number}",
        "DEPLOYMENT": f"d-{number}",
        "HPA": f"h-{number}",
    }
    text = (RULES / "sku.yaml.tpl").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return re.sub("@[A-Z_]+@", str(1 + number), text)


def configure(folder: Path, address: str, pods: int) -> None:
    """Write Prometheus' configuration, its targets and both rule sets."""
    targets = [
        f'{{"targets": ["{address}"], "labels": {{"__metrics_path__": "/{pod}", "namespace": "n", "pod": "llm-{pod}",'
        f' "sku": "sku-{pod % SKUS}", "release": "r"}}}}'
        for pod in range(pods)
    ]
    (folder / "targets.json").write_text("[" + ",\n".join(targets) + "]", encoding="utf-8")
    ours = scoped_rules("recording.yaml", namespace="n", release="r").replace("[30s]", "[1m]").replace("[15s]", "[45s]")
    ours += "".join(sku_constants(number) for number in range(SKUS))
    (folder / "ours.yml").write_text(ours, encoding="utf-8")
    (folder / "origin.yml").write_text(ORIGIN, encoding="utf-8")
    (folder / "prometheus.yml").write_text(
        f"""global: {{scrape_interval: {SCRAPE_S}s, evaluation_interval: 15s}}
rule_files: [ours.yml, origin.yml]
scrape_configs:
  - job_name: pods
    file_sd_configs: [{{files: [targets.json]}}]
""",
        encoding="utf-8",
    )


def measure(server: Prometheus, seconds: float) -> Mapping[str, tuple[float, list[float]]]:
    """Return interval and durations (both in seconds) of every rule group, one duration per evaluation seen."""
    intervals: dict[str, float] = {}
    seen: dict[str, dict[str, float]] = defaultdict(dict)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for group in server.get("rules")["groups"]:
            intervals[group["name"]] = float(group["interval"])
            if float(group["evaluationTime"]) > 0:  # else it has not run yet
                seen[group["name"]][group["lastEvaluation"]] = float(group["evaluationTime"])
        time.sleep(2.0)
    return {name: (intervals[name], list(seen[name].values())) for name in intervals}


def report(groups: Mapping[str, tuple[float, list[float]]], pods: int) -> tuple[str, float]:
    """Return the table and the ratio of ours to the origin's, the worse of the two ways to reckon it."""
    rows = [
        "| group | every s | evaluations seen | best ms | mean ms | worst ms | s per minute |",
        "|---" + "|---:" * 6 + "|",
    ]
    best: dict[bool, float] = defaultdict(float)
    mean: dict[bool, float] = defaultdict(float)
    for name, (interval_s, durations) in sorted(groups.items()):
        best_s = min(durations)
        per_minute = best_s * 60 / interval_s
        best[name == "origin"] += per_minute
        mean[name == "origin"] += fmean(durations) * 60 / interval_s
        times_ms = " | ".join(f"{1000 * t:.0f}" for t in (best_s, fmean(durations), max(durations)))
        rows.append(f"| {name} | {interval_s:.0f} | {len(durations)} | {times_ms} | {per_minute:.2f} |")
    ratios = [cost[False] / cost[True] for cost in (best, mean)]
    rows.append(
        f"\n{pods} pods: ours {best[False]:.2f} s, origin {best[True]:.2f} s per minute, ratio {ratios[0]:.2f} "
        f"(by mean durations {ratios[1]:.2f})"
    )
    return "\n".join(rows), max(ratios)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rule_cost", description=__doc__)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=180.0, help="measured after a warm-up of 75 s")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, Exporter() as exporter:
        folder = Path(name)
        configure(folder, exporter.address, options.pods)
        with Prometheus(folder) as server:
            time.sleep(WARM_UP_S)
            groups = measure(server, options.seconds)
            recorded = server.values(
                'count({__name__=~"triton:demand:ratio|origin:queue_compute:ratio"}) by (__name__)'
            )
    counts = {labels["__name__"]: int(value) for labels, value in recorded}
    if counts.get("triton:demand:ratio") != options.pods:
        sys.stderr.write(f"error: expected {options.pods} demand series, recorded {counts}\n")
        return 1
    text, ratio = report(groups, options.pods)
    sys.stdout.write(f"{text}\nseries recorded: {counts}\n")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
