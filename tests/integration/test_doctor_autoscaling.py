"""`trtbuild doctor autoscaling` against a real Prometheus: its words for targets, rules and errors are understood."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from trtbuild.autoscaling.prometheus import FRONT_METRICS
from trtbuild.cli import run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not on PATH"),
]
DEADLINE_S = 120.0
"""For anything that must happen at all; never a statement about speed."""
OWN = {"namespace": "llm", "release": "llama", "sku": "h100"}
RULES = """
groups:
  - name: pod
    interval: 1s
    rules:
      - record: triton:demand:ratio
        expr: sum by (namespace, pod, sku, release) (trtbuild_requests_running{namespace="llm",release="llama"})
"""


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(f'{name}{{model="m"}} 1\n' for name in FRONT_METRICS).encode())

    def log_message(self, *_: object) -> None:
        pass


def _wait(url: str) -> None:
    """Wait until every target has been scraped and the rule has given a value for the two that are up."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/api/v1/query?query=triton:demand:ratio", timeout=20) as answer:
                recorded = json.load(answer)["data"]["result"]
            with urllib.request.urlopen(f"{url}/api/v1/targets", timeout=20) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
            if len(recorded) == 2 and not [target for target in targets if target["health"] == "unknown"]:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("Prometheus recorded nothing")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with a good pod a, a pod b that is down and a pod c without the label sku."""
    directory = tmp_path_factory.mktemp("prometheus")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with socket.socket() as closed, socket.socket() as free:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        up, down = f"127.0.0.1:{server.server_port}", f"127.0.0.1:{closed.getsockname()[1]}"
        static = [
            {"targets": [up], "labels": {**OWN, "pod": "a"}},
            {"targets": [down], "labels": {**OWN, "pod": "b"}},
            {"targets": [up], "labels": {"namespace": "llm", "release": "llama", "pod": "c"}},
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "pods", "static_configs": static}],
        }
        (directory / "rules.yaml").write_text(RULES)
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        url = f"http://127.0.0.1:{port}"
        command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
        with (directory / "log").open("wb") as log:
            child = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=directory, stdout=log, stderr=log
            )
        try:
            _wait(url)
            yield url
        finally:
            child.terminate()
            child.wait(timeout=60)
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize(
    ("ready", "starting", "metric", "code", "text"),
    [
        ("a", "b", "triton:demand:ratio", 0, "1 targets are up; 1 pods are starting"),
        ("ab", "", "triton:demand:ratio", 3, "the target of pod b, which is ready, is down: Get"),
        ("ac", "", "triton:demand:ratio", 3, "the target of pod c lacks the label sku, expected h100"),
        ("ad", "", "triton:demand:ratio", 3, "Prometheus scrapes no metrics port of pod d"),
        ("a", "", "triton:demands:ratio", 3, "no rule records triton:demands:ratio (there is triton:demand:ratio)"),
        ("a", "", "bad{", 3, "Prometheus answered with an error: bad_data: invalid parameter"),
    ],
    ids=["starting", "down", "label", "not-scraped", "rule", "query-error"],
)
def test_a_real_prometheus_is_understood(
    ready: str, starting: str, metric: str, code: int, text: str, prometheus: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = {"app.kubernetes.io/instance": "llama", "trtbuild.dev/sku": "h100"}
    items = [
        {
            "metadata": {"name": name, "labels": own},
            "status": {"conditions": [{"type": "Ready", "status": str(is_ready)}]},
        }
        for names, is_ready in ((ready, True), (starting, False))
        for name in names
    ]
    (tmp_path / "pods.json").write_text(json.dumps({"items": items}))
    arguments = ["--namespace", "llm", "--prometheus", prometheus, "--metric", metric, "--from", str(tmp_path)]
    assert run(["doctor", "autoscaling", *arguments]) == code
    assert text in capsys.readouterr().out
