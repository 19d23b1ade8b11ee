"""Benchmark: what open connections cost the endpoint while nobody asks for anything.

    python benchmarks/openai/idle.py [--connections 1000] [--seconds 10] [--json FILE]

One process serves a model that does nothing. First it has no connection, then as many as asked for, each kept alive
after one answered request, then as many again that never sent a byte. Memory is the process's resident set;
processor time is that of the whole process, in percent of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "model_repo_templates" / "_shared"
SERVER = """
import sys
from trtbuild_http.gateway import Endpoint, EndpointSettings

class Model:
    name, aliases, routes = "m", frozenset(), {}
    def describe(self): return {"id": "m"}
    def metrics(self): return b""
    def unready_reason(self): return ""
    def stuck_reason(self): return ""

settings = EndpointSettings(host="127.0.0.1", port=0, runtime_dir=sys.argv[1])
endpoint = Endpoint(settings, Model(), "1", lambda line: None, b"{}")
endpoint.start()
while endpoint.address is None: pass
print(endpoint.address[1], flush=True)
sys.stdin.read()
endpoint.stop()
"""
REQUEST = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class State:
    """What the process takes in one state."""

    connections: int
    resident_mb: float
    processor_percent: float


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _processor_s(pid: int) -> float:
    """Return the processor time of a process in seconds, exact to a tick of the kernel's clock."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _measure(pid: int, connections: int, seconds: float) -> State:
    time.sleep(1)  # what the last step began has ended
    before, began = _processor_s(pid), time.monotonic()
    time.sleep(seconds)
    spent = (_processor_s(pid) - before) / (time.monotonic() - began)
    return State(connections, _resident_mb(pid), 100 * spent)


def _connect(port: int, count: int, stack: ExitStack, *, asks: bool) -> None:
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        if asks:
            client.sendall(REQUEST)
            if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("the server refused a connection")


def measure(connections: int, seconds: float) -> list[State]:
    """Return the three states."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="idle-"))
        server = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", SERVER, directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(SHARED)},
            )
        )
        assert server.stdin is not None
        assert server.stdout is not None
        stack.callback(server.stdin.close)
        port = int(server.stdout.readline())
        _connect(port, 1, stack, asks=True)
        states = [_measure(server.pid, 1, seconds)]
        _connect(port, connections, stack, asks=True)
        states.append(_measure(server.pid, 1 + connections, seconds))
        _connect(port, connections, stack, asks=False)
        states.append(_measure(server.pid, 1 + 2 * connections, seconds))
        return states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * options.connections + 300
    if files < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, most), most))
    states = measure(options.connections, options.seconds)
    print(f"{'connections':>12} {'memory, MB':>11} {'KB each':>8} {'processor':>10} {'ratio of memory':>16}")
    first = states[0]
    for state in states:
        added = state.connections - first.connections
        each = f"{1000 * (state.resident_mb - first.resident_mb) / added:.1f}" if added else "-"
        ratio = state.resident_mb / first.resident_mb
        memory = f"{state.resident_mb:>11.1f} {each:>8}"
        print(f"{state.connections:>12} {memory} {state.processor_percent:>9.2f}% {ratio:>16.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(state) for state in states], indent=1) + "\n")


if __name__ == "__main__":
    main()
