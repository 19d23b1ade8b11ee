"""Live proof: a real server, a real Prometheus with the shipped rules, an open-loop load that steps up and down.

    python -m benchmarks.autoscaling.live [--out DIR] [--trials 1]

The server is ``trtbuild serve`` on the cpu backend with four slots. Its capacity is measured first; then the load is
0.3, 2 and 0.3 times that. Every second the recorded series are read and the autoscaler's arithmetic is asked what it
would do with one replica. Printed: seconds from the step until it asks for more (a sync of the real controller comes
up to 15 s later), and until it would go back to one. Exit code 1 where the first is above 15 s.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.autoscaling.hpa import PodMetric, pods_metric_replicas
from benchmarks.autoscaling.panels import Panel, document, style
from benchmarks.prometheus import Prometheus, scoped_rules
from trtclient.load.svg import Line

ROOT = Path(__file__).parents[2]
SLOTS = 4
TOKENS = 200
TARGET = 0.8
GOAL_S = 15.0
LOW, HIGH = 0.3, 2.0
PHASES_S = (60.0, 40.0, 60.0)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Addresses of the running server."""

    http: str
    metrics: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The recorded series at one second."""

    at_s: float
    rate_rps: float
    waiting: float
    running: float
    ratio: float
    demand: float
    wanted: int


def _address(log: Path, process: subprocess.Popen[bytes]) -> Server:
    """Wait for the line that says where it serves."""
    while process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"event": "serve"' in line:
                words = json.loads(line)["msg"].replace("(", " ").replace(")", " ").replace(",", " ").split()
                http = next(word for word in words if word.startswith("http://"))
                return Server(http=http, metrics=f"127.0.0.1:{words[words.index('metrics') + 1]}")
        time.sleep(0.2)
    raise SystemExit(f"error: the server ended\n{log.read_text(encoding='utf-8')[-2000:]}")


@contextmanager
def _server(folder: Path) -> Iterator[Server]:
    """Run ``trtbuild serve`` until the block ends."""
    command = [sys.executable, "-m", "trtbuild", "serve", str(ROOT / "examples" / "pydoc-llama"), "--backend", "cpu"]
    command += ["--name", "bench", "--max-batch-size", str(SLOTS), "--max-queue-size", "4096", "--log-format", "json"]
    command += ["--store", str(folder / "store"), "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    log = folder / "serve.log"
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRTBUILD_")}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    try:
        server = _address(log, process)
        deadline_s = time.monotonic() + 300
        while time.monotonic() < deadline_s and not _is_ready(server):
            time.sleep(0.5)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _is_ready(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.http}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _ask(server: Server) -> None:
    body = {"text_input": "The", "max_tokens": TOKENS, "min_tokens": TOKENS, "stream": False}
    request = urllib.request.Request(
        f"{server.http}/v2/models/bench/generate_stream",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()


def _capacity(server: Server, seconds: float = 12.0) -> float:
    """Return requests per second with every slot busy."""
    _ask(server)
    done: list[float] = []
    until_s = time.monotonic() + seconds

    def stream() -> None:
        while time.monotonic() < until_s:
            _ask(server)
            done.append(time.monotonic())

    threads = [threading.Thread(target=stream) for _ in range(2 * SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(at_s <= until_s for at_s in done) / seconds


class _Load:
    """An open loop: arrivals at random times whatever the server does, a thread per request."""

    def __init__(self, server: Server, seed: int) -> None:
        self.rate_rps = 0.0
        self._server = server
        self._random = random.Random(seed)
        self._is_over = threading.Event()
        self._requests: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._is_over.is_set():
            if self._is_over.wait(self._random.expovariate(self.rate_rps) if self.rate_rps > 0 else 0.05):
                return
            thread = threading.Thread(target=_ask, args=(self._server,), daemon=True)
            thread.start()
            self._requests.append(thread)

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def _configure(folder: Path, server: Server) -> None:
    rules = scoped_rules("recording.yaml", namespace="n", release="r")
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    (folder / "prometheus.yml").write_text(
        f"""global: {{scrape_interval: 5s, evaluation_interval: 5s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: pods
    static_configs:
      - targets: ["{server.metrics}"]
        labels: {{namespace: n, pod: p, sku: cpu, release: r}}
""",
        encoding="utf-8",
    )


def _read(prometheus: Prometheus, at_s: float, rate_rps: float) -> Reading:
    names = "triton:(waiting:requests|running:requests|queue_compute:ratio|demand:ratio)"
    found = {labels["__name__"]: value for labels, value in prometheus.values(f'{{__name__=~"{names}"}}')}
    demand = found.get("triton:demand:ratio")
    wanted = pods_metric_replicas(1, [PodMetric(value=demand)], TARGET)
    return Reading(
        at_s=at_s,
        rate_rps=rate_rps,
        waiting=found.get("triton:waiting:requests", 0.0),
        running=found.get("triton:running:requests", 0.0),
        ratio=found.get("triton:queue_compute:ratio", 0.0),
        demand=demand if demand is not None else 0.0,
        wanted=wanted if wanted is not None else 1,
    )


def _watch(prometheus: Prometheus, server: Server, capacity_rps: float, seed: int) -> list[Reading]:
    """Drive the load through its phases and read the series every second."""
    readings = []
    with _Load(server, seed) as load:
        began_s = time.monotonic()
        ends_s = (PHASES_S[0], PHASES_S[0] + PHASES_S[1], sum(PHASES_S))
        while (elapsed_s := time.monotonic() - began_s) < ends_s[2]:
            load.rate_rps = capacity_rps * (HIGH if ends_s[0] <= elapsed_s < ends_s[1] else LOW)
            readings.append(_read(prometheus, elapsed_s, load.rate_rps))
            time.sleep(1.0)
    return readings


def _plot(readings: Sequence[Reading], capacity_rps: float) -> str:
    def line(label: str, values: Sequence[float], *, number: int = 0, is_step: bool = False) -> Line:
        points = [(one.at_s, value) for one, value in zip(readings, values, strict=True)]
        return Line(label=label, points=points, style=style(number), is_step=is_step)

    running = line("running", [o.running for o in readings], number=1)
    return document(
        "a real server on the cpu backend, the shipped rules",
        [
            Panel(title="load, share of capacity", lines=[line("load", [o.rate_rps / capacity_rps for o in readings])]),
            Panel(title="requests, 30 s mean", lines=[line("waiting", [o.waiting for o in readings]), running]),
            Panel(title="triton:queue_compute:ratio", lines=[line("ratio", [o.ratio for o in readings])]),
            Panel(title="triton:demand:ratio", lines=[line("demand", [o.demand for o in readings])]),
            Panel(
                title="desired replicas (of 1, no policies)",
                lines=[line("desired", [o.wanted for o in readings], is_step=True)],
            ),
        ],
        x_title="seconds",
    )


def _judge(readings: Sequence[Reading]) -> tuple[float, str]:
    """Return seconds from the step up until more replicas are asked for, and the text of the trial."""
    up_s, down_s = PHASES_S[0], PHASES_S[0] + PHASES_S[1]
    asked_s = next((one.at_s - up_s for one in readings if one.at_s >= up_s and one.wanted > 1), math.inf)
    later = [one for one in readings if one.at_s >= down_s]
    too_many_s = max((one.at_s - down_s for one in later if one.wanted > 1), default=0.0)
    too_early = sum(20 < one.at_s < up_s and one.wanted > 1 for one in readings)
    return asked_s, (
        f"asks for more {asked_s:.1f} s after the step up (false alarms before it: {too_early} s), for at most "
        f"{max(one.wanted for one in readings)} replicas, and for one {too_many_s:.0f} s after the step down"
    )


def _page(lines: Sequence[str], plot: str) -> str:
    """Return an HTML page that needs nothing else: what was printed, above the plot."""
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<!doctype html><meta charset="utf-8"><title>Does the autoscaler follow the load?</title>{text}{plot}\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling.live", description=__doc__)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for the plots (HTML, one a trial)")
    options = parser.parse_args(argv)
    reactions: list[float] = []
    lines: list[str] = []
    for trial in range(options.trials):
        with tempfile.TemporaryDirectory() as name, _server(Path(name)) as server:
            capacity_rps = _capacity(server)
            _configure(Path(name), server)
            with Prometheus(Path(name)) as prometheus:
                readings = _watch(prometheus, server, capacity_rps, trial)
        reaction_s, line = _judge(readings)
        reactions.append(reaction_s)
        lines.append(f"trial {trial}: capacity {capacity_rps:.1f} rps, {line}")
        sys.stdout.write(lines[-1] + "\n")
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            page = _page(lines, _plot(readings, capacity_rps))
            (options.out / f"live-{trial}.html").write_text(page, encoding="utf-8")
            sys.stderr.write(f"wrote {options.out / f'live-{trial}.html'}\n")
    return 0 if max(reactions) <= GOAL_S else 1


if __name__ == "__main__":
    sys.exit(main())
