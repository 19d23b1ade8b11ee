"""The rendered rules in a real Prometheus, with the intervals they are shipped with."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.prometheus import Prometheus
from tests.chart.helm import NAMESPACE, ci_values, merge, render

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]
DEADLINE_S = 240.0
"""For anything that must happen at all; never a statement about speed."""
WAITING, RUNNING, SLOTS = 128, 64, 64
DEPLOYMENT = "llama-trtbuild-a100"
POD = {"namespace": NAMESPACE, "pod": f"{DEPLOYMENT}-5c9f7d-abcde", "release": "llama", "sku": "a100"}
VALUES = merge(ci_values("one-sku"), {"autoscaling": {"type": "keda"}})


class _Pod(BaseHTTPRequestHandler):
    """Metrics of a pod with a steady queue, and its Deployment's as kube-state-metrics gives them."""

    start_s = time.monotonic()

    def do_GET(self) -> None:
        age_s = time.monotonic() - self.start_s
        series = {
            "trtbuild_requests_waiting": WAITING,
            "trtbuild_requests_running": RUNNING,
            "trtbuild_request_slots": SLOTS,
            "trtbuild_request_queue_seconds_total": WAITING * age_s,
            "trtbuild_request_compute_seconds_total": RUNNING * age_s,
        }
        lines = [f'{name}{{model="m",version="1"}} {value}' for name, value in series.items()]
        lines.append(f'kube_deployment_status_replicas_ready{{deployment="{DEPLOYMENT}"}} 1')
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write("\n".join([*lines, ""]).encode())

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict[str, Any]]:
    """The rendered rule objects as files, unchanged."""
    directory = tmp_path_factory.mktemp("rules")
    files = {}
    for item in render(VALUES).kind("PrometheusRule"):
        path = directory / f"{item['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(item["spec"]))
        files[path] = item["spec"]
    assert len(files) == 2
    return files


@pytest.fixture(scope="module")
def prometheus(rules: dict[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pod)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("prometheus")
    interval = render(VALUES).one("PodMonitor")["spec"]["podMetricsEndpoints"][0]["interval"]
    target = {"targets": [f"127.0.0.1:{server.server_port}"], "labels": POD}
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "server", "static_configs": [target]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    try:
        with Prometheus(folder) as running:
            yield running
    finally:
        server.shutdown()
        server.server_close()


def test_groups_run_at_their_own_intervals(prometheus: Prometheus, rules: dict[Path, dict[str, Any]]) -> None:
    units = {"s": 1, "m": 60}
    wanted = {
        group["name"]: int(group["interval"][:-1]) * units[group["interval"][-1]]
        for spec in rules.values()
        for group in spec["groups"]
    }
    found = {group["name"]: group["interval"] for group in prometheus.get("rules")["groups"]}
    assert found == wanted
    assert found["trtbuild-signal"] == 5
    assert len(set(found.values())) > 2


def test_signals_of_a_queue_are_right(prometheus: Prometheus) -> None:
    """Groups of different intervals read each other; what comes out is the truth about a steady queue.

    Ratios are exact: both of their series are of the same scrapes. A rate alone is over Prometheus' own scrape times,
    which a busy machine moves by seconds in 30, so a quarter is allowed there.
    """
    [trigger] = render(VALUES).one("ScaledObject")["spec"]["triggers"]
    loose = {"triton:waiting:requests": WAITING}
    wanted = {
        "triton:queue_compute:ratio": WAITING / RUNNING,
        "triton:demand:ratio": (WAITING + RUNNING) / SLOTS,
        "triton:sku_demand:pods": (WAITING + RUNNING) / SLOTS,
        trigger["metadata"]["query"]: (WAITING + RUNNING) / SLOTS,
    }

    def seen(names: dict[str, float]) -> dict[str, float]:
        return {name: value for name in names for _, value in prometheus.values(name)}

    def until_seen(wanted: dict[str, float], rel: float) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while (found := seen(wanted)) != pytest.approx(wanted, rel=rel) and time.monotonic() < deadline_s:
            time.sleep(1)
        assert found == pytest.approx(wanted, rel=rel)

    until_seen(wanted, 0.001)
    until_seen(loose, 0.25)
