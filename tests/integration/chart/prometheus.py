"""A real Prometheus in the network of a running pod, with the rendered rules and a stand-in for cluster metrics."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.chart.helm import NAMESPACE, Rendered
from tests.integration.chart.pod import Running

DEADLINE_S = 120.0
NAME = "llama-trtbuild-cpu"
POD = f"{NAME}-5c9f7d-abcde"
# What kube-state-metrics and the DCGM exporter would say of the one pod.
CLUSTER = f"""
kube_deployment_status_replicas_ready{{namespace="{NAMESPACE}",deployment="{NAME}"}} 1
kube_horizontalpodautoscaler_status_desired_replicas{{namespace="{NAMESPACE}",horizontalpodautoscaler="{NAME}"}} 2
kube_horizontalpodautoscaler_spec_max_replicas{{namespace="{NAMESPACE}",horizontalpodautoscaler="{NAME}"}} 4
kube_pod_start_time{{namespace="{NAMESPACE}",pod="{POD}"}} 1
kube_pod_init_container_status_running{{namespace="{NAMESPACE}",pod="{POD}"}} 1
kube_pod_container_status_restarts_total{{namespace="{NAMESPACE}",pod="{POD}",container="server"}} 0
kube_pod_status_scheduled_time{{namespace="{NAMESPACE}",pod="{POD}"}} @now
kube_pod_status_initialized_time{{namespace="{NAMESPACE}",pod="{POD}"}} @now
DCGM_FI_DEV_GPU_UTIL{{exported_namespace="{NAMESPACE}",exported_pod="{POD}"}} 50
"""
ASK = """
import json, sys, urllib.parse, urllib.request
counts = []
for text in json.load(sys.stdin):
    query = urllib.parse.urlencode({"query": text})
    with urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/query?{query}", timeout=20) as answer:
        counts.append(len(json.load(answer)["data"]["result"]))
print(json.dumps(counts))
"""


class Prometheus:
    """Scrapes the pod's server every second; the rendered groups are evaluated every two."""

    def __init__(self, directory: Path, server: Running, rendered: Rendered) -> None:
        self._enter = ["nsenter", "--target", str(server.pid), "--net"]
        metrics = directory / "www" / "metrics"
        metrics.parent.mkdir()
        metrics.write_text(CLUSTER.replace("@now", str(int(time.time()))).lstrip())
        config = directory / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config(directory, rendered)))
        www = [sys.executable, "-m", "http.server", "9100", "--bind", "127.0.0.1", "--directory", str(metrics.parent)]
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
        command += ["--web.listen-address=127.0.0.1:9090", "--log.level=warn"]
        self._children = []
        for argv in (www, command):
            with (directory / "log").open("ab") as log:
                self._children.append(subprocess.Popen([*self._enter, *argv], stdout=log, stderr=log))
        self._log = directory / "log"

    def _config(self, directory: Path, rendered: Rendered) -> dict[str, Any]:
        files = []
        for item in rendered.kind("PrometheusRule"):
            path = directory / f"{item['metadata']['name']}.yaml"
            path.write_text(re.sub(r"interval: \w+", "interval: 2s", yaml.safe_dump(item["spec"])))
            files.append(str(path))
        assert len(files) == 2
        labels = {"namespace": NAMESPACE, "pod": POD, "release": "llama", "sku": "cpu"}
        static = [{"targets": ["127.0.0.1:8002"], "labels": labels}]
        return {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": files,
            "scrape_configs": [
                {"job_name": "server", "static_configs": static, "metric_relabel_configs": keep(rendered)},
                {"job_name": "cluster", "honor_labels": True, "static_configs": [{"targets": ["127.0.0.1:9100"]}]},
            ],
        }

    def ask(self, expressions: list[str]) -> list[int]:
        """Return how many series each expression has now; all 0 while Prometheus does not answer."""
        command = [*self._enter, sys.executable, "-c", ASK]
        text = json.dumps(expressions)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            assert all(child.poll() is None for child in self._children), self._log.read_text()
            return [0] * len(expressions)
        counts = json.loads(done.stdout)
        assert isinstance(counts, list)
        return counts

    def wait(self, condition: Callable[[], bool]) -> None:
        """Repeat until the condition holds or time is over; the caller's own assertion says what is missing then."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition() and time.monotonic() < deadline:
            time.sleep(1)

    def stop(self) -> None:
        for child in self._children:
            child.kill()
            child.wait(30)


def keep(rendered: Rendered) -> list[dict[str, Any]]:
    """Return the rendered PodMonitor's metric relabelings as Prometheus writes them."""
    endpoint = rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"][0]
    return [
        {"source_labels": item["sourceLabels"], "regex": item["regex"], "action": item["action"]}
        for item in endpoint["metricRelabelings"]
    ]
