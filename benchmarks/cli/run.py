"""Start-up: ``trtbuild --help`` and a warm ``trtbuild init`` against ``python -c "import click"``, in turn.

    python benchmarks/cli/run.py [--runs 10] [--json FILE]

Prints medians and ratios. Quote the ratios: absolute times are the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pydoc-llama"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "engine.yaml"
        config.write_text(f"model: {EXAMPLE}\nbackend: cpu\nstore: {scratch}/store\nrepository: {scratch}/run/models\n")
        trtbuild = [sys.executable, "-m", "trtbuild"]
        commands = {
            "python -c 'import click'": [sys.executable, "-c", "import click"],
            "trtbuild --help": [*trtbuild, "--help"],
            "trtbuild models": [*trtbuild, "models"],
            "trtbuild plan llama-3-8b --gpu h100": [*trtbuild, "plan", "llama-3-8b", "--gpu", "h100"],
            "trtbuild init (hit)": [*trtbuild, "init", "--config", str(config)],
        }
        _time(commands["trtbuild init (hit)"])  # builds, so that the timed ones are hits
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.runs):
            for name, command in commands.items():
                times[name].append(_time(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    peer = next(iter(medians.values()))
    print(f"{'command':<38} {'median ms':>10} {'min ms':>8} {'ratio':>6}")
    for name, median in medians.items():
        print(f"{name:<38} {median * 1000:>10.0f} {min(times[name]) * 1000:>8.0f} {median / peer:>6.2f}")
    if options.json:
        options.json.write_text(
            json.dumps({"medians_s": medians, "ratios": {n: m / peer for n, m in medians.items()}}, indent=1)
        )


def _time(command: list[str]) -> float:
    # Compiled modules are kept, as wherever a command is run twice.
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRTBUILD_") and k != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
