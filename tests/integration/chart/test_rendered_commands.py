"""The commands of a rendered pod, run for real on the cpu backend: prepare, init, second init, serve, probes, preStop.

The containers run in namespaces of their own with the rendered user, capabilities, read-only root, mounts, environment
and configuration (pod.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart.helm import Rendered, ci_values, merge, render
from tests.chart.test_monitoring import DASHBOARDS, panels, substitute
from tests.hub_stub import HubStub
from tests.integration.chart.pod import Pod, Running, why_not
from tests.integration.chart.prometheus import Prometheus

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(why_not()), reason=f"pods cannot be run here: {why_not()}"),
]
MODEL = "example/pydoc-llama"
TOKEN = "hf_planted_token_of_the_chart_test"
DEADLINE_S = 240.0
"""For anything that must happen at all; never a statement about speed."""


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStub]:
    example = Path(__file__).resolve().parents[3] / "examples" / "pydoc-llama"
    with HubStub(token=TOKEN) as stub:
        stub.add_repo(MODEL, {path.name: path.read_bytes() for path in example.iterdir() if path.is_file()})
        yield stub


@dataclass
class Node:
    """A node with its file system, on which pods of one release are started."""

    directory: Path
    rendered: Rendered
    factory: pytest.TempPathFactory

    def pod(self) -> Pod:
        maps = {item["metadata"]["name"]: item["data"] for item in self.rendered.kind("ConfigMap")}
        spec = self.rendered.sku("Deployment", "cpu")["spec"]["template"]["spec"]
        own = self.factory.mktemp("pod")
        secrets = {"hf-token": {"token": TOKEN}}
        return Pod(spec=spec, node=self.directory, directory=own, config_maps=maps, secrets=secrets)


@pytest.fixture(scope="module")
def node(hub: HubStub, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The laptop scenario with host paths, a token and a hub on this machine."""
    values = {
        "model": {"name": MODEL, "servedName": "pydoc", "tokenSecret": {"name": "hf-token"}},
        "hub": {"endpoint": hub.endpoint},
        "storage": {"engines": {"type": "hostPath"}, "models": {"type": "hostPath"}, "minFree": "1Mi"},
    }
    rendered = render(merge(ci_values("cpu"), values))
    return Node(tmp_path_factory.mktemp("node"), rendered, tmp_path_factory)


@pytest.fixture(scope="module")
def first(node: Node) -> Pod:
    """A pod whose node knows nothing yet, after its init containers."""
    pod = node.pod()
    store = pod.volume("engines")
    assert store.stat().st_uid == 0
    refused = pod.run("init")
    assert refused.returncode == 4, refused.stderr
    assert "/var/lib/trtbuild/hf cannot be written" in json.loads(refused.stderr.splitlines()[-1])["msg"]
    prepared = pod.run("prepare-host-path")
    assert prepared.returncode == 0, prepared.stderr
    assert (store.stat().st_uid, store.stat().st_gid) == (10001, 10001)
    done = pod.run("init")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"ts", "level", "event", "msg"} <= set(event) for event in events)
    assert "build" in {event["stage"] for event in events}
    return pod


@pytest.fixture(scope="module")
def second(node: Node, first: Pod, hub: HubStub) -> Pod:
    """Another pod of the same node, after its init containers: it finds the engine."""
    pod = node.pod()
    before = {path: path.stat().st_mtime_ns for path in node.directory.rglob("manifest.json")}
    assert len(before) == 1
    assert pod.run("prepare-host-path").returncode == 0
    done = pod.run("init")
    assert done.returncode == 0, done.stderr
    assert "build" not in {json.loads(line)["stage"] for line in done.stderr.splitlines()}
    assert {path: path.stat().st_mtime_ns for path in node.directory.rglob("manifest.json")} == before
    return pod


def wait_for_startup(running: Running) -> None:
    """Repeat the startup probe until it succeeds."""
    deadline = time.monotonic() + DEADLINE_S
    assert running.process.poll() is None, running.log.read_text(errors="replace")[-3000:]
    while (last := running.probe("startupProbe")).returncode != 0:
        assert running.process.poll() is None, running.log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, last.stderr + running.log.read_text(errors="replace")[-3000:]
        time.sleep(0.5)


@pytest.fixture(scope="module")
def server(second: Pod) -> Iterator[Running]:
    """The second pod's server, once its startup probe succeeds; its network leads nowhere."""
    running = second.start("server")
    try:
        wait_for_startup(running)
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def offline(second: Pod, node: Node) -> Pod:
    """A pod with one claim that was filled elsewhere, mounted read-only, and no hub; after its init container."""
    claim = {"type": "persistentVolumeClaim", "existingClaim": "artifacts", "readOnly": True}
    values = {
        "model": {"name": MODEL, "servedName": "pydoc"},
        "hub": {"offline": True},
        "storage": {"engines": claim, "models": claim},
    }
    shutil.copytree(node.directory / "var/lib/trtbuild", node.directory / "claims" / "artifacts", symlinks=True)
    pod = Node(node.directory, render(merge(ci_values("cpu"), values)), node.factory).pod()
    done = pod.run("init", own_network=True)
    assert done.returncode == 0, done.stderr
    assert "build" not in {json.loads(line)["stage"] for line in done.stderr.splitlines()}
    return pod


def test_init_needs_neither_network_nor_a_writable_store(offline: Pod) -> None:
    assert list((offline.volume("run") / "repository" / "models").rglob("config.pbtxt"))


def test_server_needs_no_writable_store(offline: Pod) -> None:
    running = offline.start("server")
    try:
        wait_for_startup(running)
        assert running.probe("livenessProbe").returncode == 0
    finally:
        running.kill()


def test_init_used_the_token_and_left_it_nowhere(first: Pod, hub: HubStub, node: Node) -> None:
    assert {request.headers.get("authorization") for request in hub.requests} >= {f"Bearer {TOKEN}"}
    assert TOKEN not in json.dumps(node.rendered.objects)
    secret = first.volume("hf-token")
    for root in (node.directory, first.directory / "volumes"):
        for path in root.rglob("*"):
            if path.is_file() and secret not in path.parents:
                assert TOKEN.encode() not in path.read_bytes(), path


def test_everything_written_belongs_to_the_pods_user(second: Pod, node: Node) -> None:
    paths = list((node.directory / "var/lib/trtbuild").rglob("*"))
    assert len(paths) > 10
    assert {path.lstat().st_uid for path in paths if path.name not in {"store", "hf"}} == {10001}


@pytest.mark.parametrize("kind", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_succeed(server: Running, kind: str) -> None:
    done = server.probe(kind)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


STREAM = """
import json, sys
from trtbuild.serve import probes
request = {"text_input": "The function", "max_tokens": 512, "min_tokens": 512}
pieces = list(probes.generate("http://127.0.0.1:8000", "pydoc", request))
json.dump([piece["text_output"] for piece in pieces], sys.stdout)
"""


def test_served_model_streams(server: Running) -> None:
    done = server.exec(["python3", "-c", STREAM])
    assert done.returncode == 0, done.stderr
    pieces = json.loads(done.stdout)
    assert len(pieces) > 2
    assert "".join(pieces).strip()


def test_helm_test_generates(server: Running, node: Node) -> None:
    """The command of the chart's test pod; the Service's name stands for the server itself here."""
    [asking] = node.rendered.one("Pod")["spec"]["containers"]
    command = ["127.0.0.1" if word == "llama-trtbuild" else word for word in asking["command"]]
    assert command != asking["command"]
    done = server.exec(command)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_server_shows_what_autoscaling_reads(server: Running) -> None:
    read = "from trtbuild.serve import probes; print(probes.read_metrics('http://127.0.0.1:8002'))"
    metrics = server.exec(["python3", "-c", read]).stdout
    for name in ("trtbuild_requests_waiting", "trtbuild_request_slots", "trtbuild_request_queue_seconds_total"):
        assert name in metrics


LOAD = """
from concurrent.futures import ThreadPoolExecutor
from trtbuild.serve import probes
def one(number):
    return list(probes.generate("http://127.0.0.1:8000", "pydoc", {"text_input": f"Number {number}", "max_tokens": 16}))
with ThreadPoolExecutor(8) as pool:
    print(sum(bool(pieces) for pieces in pool.map(one, range(40))))
"""


@pytest.fixture(scope="module")
def prometheus(server: Running, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus with the rendered rules, scraping the live server."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), server, node.rendered)
    try:
        running.wait(lambda: running.ask(['up{job="server"} == 1'])[0] > 0)
        yield running
    finally:
        running.stop()


def test_dashboards_and_signals_show_data_of_the_live_server(prometheus: Prometheus, server: Running) -> None:
    """Every expression of every panel, and every series an autoscaler may ask for, has a value."""
    expressions = [substitute(t["expr"]) for path in DASHBOARDS for panel in panels(path) for t in panel["targets"]]
    signals = ["triton:demand:ratio", "triton:demand_by_cost:ratio", "triton:queue_compute:ratio"]
    signals += ["triton:waiting:requests", "triton:sku_demand:pods"]
    expressions += [f'{name}{{namespace="inference",release="llama",sku="cpu"}}' for name in signals]
    assert server.exec(["python3", "-c", LOAD], timeout_s=200).stdout == "40\n"
    prometheus.wait(lambda: all(prometheus.ask(expressions)))
    empty = [text for text, count in zip(expressions, prometheus.ask(expressions), strict=True) if not count]
    assert empty == []


def test_scaling_query_of_keda_has_one_number(prometheus: Prometheus) -> None:
    values = {"autoscaling": {"enabled": True, "type": "keda"}}
    trigger = render(merge(ci_values("cpu"), values)).one("ScaledObject")["spec"]["triggers"][0]
    assert prometheus.ask([trigger["metadata"]["query"]]) == [1]


def test_root_file_system_is_read_only(server: Running) -> None:
    done = server.exec(
        ["sh", "-c", "touch /probe /usr/probe /etc/probe 2>&1; touch /tmp/fine && id -u && grep Cap /proc/self/status"]
    )
    assert done.stdout.count("Read-only file system") + done.stdout.count("Permission denied") >= 2
    assert "10001" in done.stdout
    assert "CapEff:\t0000000000000000" in done.stdout


def test_pod_drains_and_ends_within_its_grace(server: Running) -> None:
    """Last: preStop, then SIGTERM to PID 1, as the kubelet does; the server ends by itself."""
    pod = server.pod
    command = pod.container("server")["lifecycle"]["preStop"]["exec"]["command"]
    done = server.exec(command)
    assert done.returncode == 0, done.stderr
    os.kill(server.pid, signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        server.process.wait(pod.spec["terminationGracePeriodSeconds"])
    assert server.process.returncode == 0, server.log.read_text(errors="replace")[-3000:]
