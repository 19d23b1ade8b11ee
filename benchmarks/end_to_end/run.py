"""From nothing to the first token on the cpu backend, cold and warm, by phase.

    python benchmarks/end_to_end/run.py [--model DIRECTORY_OR_ID] [--runs 3] [--json FILE]

Cold: an empty store; the engine is built. Warm: the same command again. Phases are read from the command's own JSON
lines and from the server: provision (resolve, plan, fetch, build or hit, write the repository), server start until
ready, first token of the first request, first token of the second one. Quote the ratio cold : warm.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trtbuild.serve import health, probes

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pydoc-llama"
READY_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(EXAMPLE))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as scratch:
            results["cold"].append(measure(options.model, Path(scratch)))
            results["warm"].append(measure(options.model, Path(scratch)))
    phases = list(results["cold"][0])
    medians = {kind: {p: statistics.median(run[p] for run in runs) for p in phases} for kind, runs in results.items()}
    print(f"{'phase':<24} {'cold ms':>9} {'warm ms':>9} {'cold:warm':>10}")
    for phase in phases:
        cold, warm = medians["cold"][phase], medians["warm"][phase]
        print(f"{phase:<24} {cold * 1000:>9.0f} {warm * 1000:>9.0f} {cold / warm:>10.2f}")
    if options.json:
        options.json.write_text(json.dumps({"model": options.model, "medians_s": medians, "runs": results}, indent=1))


def measure(model: str, scratch: Path) -> dict[str, float]:
    """Return seconds by phase of one run with a store below ``scratch``."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRTBUILD_")}
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "trtbuild", "serve", model, "--backend", "cpu", "--name", "bench", *ports]
    command += ["--log-format", "json", "--store", str(scratch / "store")]
    started = time.perf_counter()
    with (scratch / "serve.log").open("w+") as log_file:
        server = subprocess.Popen(command, env=env, stdout=log_file, stderr=log_file)
        try:
            url = _serving_at(scratch / "serve.log", server)
            provisioned = time.perf_counter()
            health.wait_ready(url, timeout_s=READY_S, is_alive=lambda: server.poll() is None)
            ready = time.perf_counter()
            first = _first_token_s(url)
            second = _first_token_s(url)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    return {
        "provision": provisioned - started,
        "server start": ready - provisioned,
        "first token": first,
        "nothing to first token": ready - started + first,
        "first token, 2nd request": second,
    }


def _serving_at(log_path: Path, server: subprocess.Popen[bytes]) -> str:
    while True:
        for line in log_path.read_text().splitlines():
            if '"event": "serve"' in line:
                message: str = json.loads(line)["msg"]
                return next(word for word in message.split() if word.startswith("http://"))
        if server.poll() is not None:
            sys.exit(log_path.read_text())
        time.sleep(0.005)


def _first_token_s(url: str) -> float:
    started = time.perf_counter()
    pieces = probes.generate(url, "bench", {"text_input": "The", "max_tokens": 16})
    next(pieces)
    elapsed = time.perf_counter() - started
    list(pieces)
    return elapsed


if __name__ == "__main__":
    main()
