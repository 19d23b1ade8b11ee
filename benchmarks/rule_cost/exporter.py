"""One HTTP server that answers as a thousand pods: counters that grow with time, gauges that move."""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "model_repo_templates" / "_shared"))

from trtbuild_front.metrics.accounting import DURATION_BOUNDS_S, FIRST_TOKEN_BOUNDS_S, INTER_TOKEN_BOUNDS_S

ENSEMBLE = ("ensemble", "preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls")
TRITON_COUNTERS = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
)
HISTOGRAMS = {
    "time_to_first_token": FIRST_TOKEN_BOUNDS_S,
    "inter_token_latency": INTER_TOKEN_BOUNDS_S,
    "request_duration": DURATION_BOUNDS_S,
}


def render(pod: int, elapsed_s: float) -> str:
    """Return a pod's metrics page: Triton's series of an ensemble and the front model's."""
    load = 0.2 + 0.6 * ((pod * 37) % 100) / 100
    lines = []
    for number, model in enumerate(ENSEMBLE):
        for name in TRITON_COUNTERS:
            unit = 1e6 if name.endswith("_us") else 1.0
            value = elapsed_s * load * (number + 1) * unit
            lines.append(f'{name}{{model="{model}",version="1"}} {value:.0f}')
    labels = 'model="llm",version="1"'
    queue_s, compute_s = elapsed_s * load * 3, elapsed_s * load * 40
    lines.append(f"trtbuild_request_queue_seconds_total{{{labels}}} {queue_s:.3f}")
    lines.append(f"trtbuild_request_compute_seconds_total{{{labels}}} {compute_s:.3f}")
    lines.append(f"trtbuild_requests_waiting{{{labels}}} {int(elapsed_s + pod) % 5}")
    lines.append(f"trtbuild_requests_running{{{labels}}} {int(40 * load)}")
    lines.append(f"trtbuild_request_slots{{{labels}}} 64")
    for kind, count in (("active", 40), ("scheduled", 40), ("waiting", 0), ("max", 64)):
        lines.append(f'nv_trt_llm_request_metrics{{model="tensorrt_llm",request_type="{kind}",version="1"}} {count}')
    for outcome, share in (("ok", 1.0), ("cancelled", 0.01), ("failed", 0.001), ("invalid", 0.01), ("rejected", 0.0)):
        value = elapsed_s * load * 8 * share
        lines.append(f'trtbuild_requests_total{{{labels},outcome="{outcome}"}} {value:.0f}')
    for name, bounds_s in HISTOGRAMS.items():
        total = elapsed_s * load * 8
        for place, bound in enumerate((*(f"{bound_s:g}" for bound_s in bounds_s), "+Inf"), start=1):
            share = place / (len(bounds_s) + 1)
            lines.append(f'trtbuild_{name}_seconds_bucket{{{labels},le="{bound}"}} {total * share:.0f}')
        lines.append(f"trtbuild_{name}_seconds_sum{{{labels}}} {total * 0.7:.3f}")
        lines.append(f"trtbuild_{name}_seconds_count{{{labels}}} {total:.0f}")
    return "\n".join(lines) + "\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    began_s = time.monotonic()

    def do_GET(self) -> None:
        """Answer ``/<pod number>``."""
        body = render(int(self.path.strip("/")), 1000.0 + time.monotonic() - self.began_s).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: sixty scrapes a second."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of scrapes that end with Prometheus."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Exporter:
    """The server in a thread of its own; a port of the operating system's choice."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
