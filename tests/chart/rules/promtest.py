"""Build and run promtool unit tests: input series in, expected samples or alerts out.

A case is short in Python and long in promtool's YAML, so the YAML is written at run time. Every pod of a case has the
target labels that the chart's PodMonitor gives: namespace, pod, sku, release.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

RULES = Path(__file__).parents[3] / "chart" / "files" / "rules"
STEP_S = 5
LONG = 200  # samples: longer than any case looks


def labels(pod: str = "p", sku: str = "a", **extra: str) -> str:
    """Return the label set of a pod's series, as PromQL writes it."""
    every = {**extra, "namespace": "n", "pod": pod, "sku": sku, "release": "r"}
    return "{" + ", ".join(f'{name}="{value}"' for name, value in every.items()) + "}"


def sku_labels(sku: str = "a", **extra: str) -> str:
    """Return the label set of a series that was summed over a SKU's pods."""
    every = {"namespace": "n", "release": "r", "sku": sku, **extra}
    return "{" + ", ".join(f'{name}="{value}"' for name, value in every.items()) + "}"


@dataclass
class Case:
    """One promtool test: add series, then expectations.

    Attributes:
        step_s: Seconds between two values of every series, and between two evaluations of the rules.
    """

    step_s: int = STEP_S
    series: list[dict[str, str]] = field(default_factory=list)
    expressions: list[dict[str, object]] = field(default_factory=list)
    alerts: list[dict[str, object]] = field(default_factory=list)

    def add(self, metric: str, values: str | float, pod: str = "p", sku: str = "a", **extra: str) -> Case:
        """Add a series of a pod; a number is a constant series."""
        return self.raw(metric + labels(pod, sku, **extra), values)

    def raw(self, series: str, values: str | float) -> Case:
        """Add a series whose labels are written out."""
        text = values if isinstance(values, str) else f"{values}x{LONG}"
        self.series.append({"series": series, "values": text})
        return self

    def expect(self, expression: str, at_s: int, samples: Mapping[str, float]) -> Case:
        """Expect exactly these samples; an empty mapping expects no series at all."""
        wanted = [{"labels": name, "value": value} for name, value in samples.items()]
        self.expressions.append({"expr": expression, "eval_time": f"{at_s}s", "exp_samples": wanted})
        return self

    def pods(self, metric: str, at_s: int, values: Mapping[str, float]) -> Case:
        """Expect one series per pod, to three digits; keys are ``pod`` or ``pod/sku``."""
        samples = {}
        for key, value in values.items():
            pod, _, sku = key.partition("/")
            samples[labels(pod, sku or "a")] = math.floor(value * 1000 + 0.5) / 1000
        return self.expect(f"round({metric}, 0.001)", at_s, samples)

    def skus(self, metric: str, at_s: int, values: Mapping[str, float]) -> Case:
        """Expect one series per SKU, to three digits."""
        samples = {sku_labels(sku): math.floor(value * 1000 + 0.5) / 1000 for sku, value in values.items()}
        return self.expect(f"round({metric}, 0.001)", at_s, samples)

    def fires(self, alert: str, at_s: int, *label_sets: Mapping[str, str]) -> Case:
        """Expect the alert with exactly these label sets, its annotations unchecked; none expects silence."""
        if not label_sets:
            self.alerts.append({"alertname": alert, "eval_time": f"{at_s}s", "exp_alerts": []})
            return self
        for wanted in label_sets:
            every = {"alertname": alert, "alertstate": "firing", **wanted}
            text = ", ".join(f'{name}="{value}"' for name, value in every.items())
            self.expressions.append(
                {
                    "expr": f"count by ({', '.join(every)}) (ALERTS{{{text}}})",
                    "eval_time": f"{at_s}s",
                    "exp_samples": [{"labels": "{" + text + "}", "value": 1}],
                }
            )
        count = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
        return self.expect(count, at_s, {"{}": len(label_sets)})

    def document(self, rule_files: Sequence[Path]) -> str:
        """Return promtool's input."""
        test = {
            "interval": f"{self.step_s}s",
            "input_series": self.series,
            "promql_expr_test": self.expressions,
            "alert_rule_test": self.alerts,
        }
        order = [
            group["name"] for path in rule_files for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        ]
        return yaml.safe_dump(
            {
                "group_eval_order": order,
                "rule_files": [str(path) for path in rule_files],
                "evaluation_interval": f"{self.step_s}s",
                "tests": [test],
            }
        )


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool, or skip where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool not found; Debian and Ubuntu: apt-get install prometheus")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)


def run_case(case: Case, tmp_path: Path, *rule_files: Path) -> None:
    """Run one case against the rule files and fail with promtool's own words."""
    assert case.expressions or case.alerts, "the case expects nothing"
    path = tmp_path / "case.yaml"
    path.write_text(case.document(rule_files), encoding="utf-8")
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{path.read_text(encoding='utf-8')}"
