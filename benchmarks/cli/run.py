"""Start-up: ``--help`` of both programs and a warm ``trtbuild init`` against ``python -c "import click"``, in turn.

    python benchmarks/cli/run.py [--runs 10] [--json FILE]

Twice: with bytecode kept, as in the images and wherever a command is run twice; and with trtbuild's own missing and not
kept, as on a read-only file system without bytecode (what it depends on has its bytecode: pip compiles).
Prints medians and ratios. Quote the ratios: absolute times are the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "pydoc-llama"
PEER = "python -c 'import click'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: others may edit or compile the tree meanwhile. Links to templates and demo model become files.
        ignored = shutil.ignore_patterns("__pycache__")
        for package in (ROOT / "builder" / "trtbuild", ROOT / "clients" / "trtclient"):
            shutil.copytree(package, Path(scratch) / "package" / package.name, ignore=ignored)
        for mode in ("no bytecode of trtbuild", "bytecode kept"):  # in this order: the second one leaves some
            results[mode] = _measure(mode == "bytecode kept", Path(scratch), options.runs)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def _measure(is_kept: bool, scratch: Path, runs: int) -> dict[str, dict[str, float]]:
    config = scratch / "engine.yaml"
    config.write_text(f"model: {EXAMPLE}\nbackend: cpu\nstore: {scratch}/store\nrepository: {scratch}/run/models\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRTBUILD_") and k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = str(scratch / "package")
    if not is_kept:
        env["PYTHONDONTWRITEBYTECODE"] = "1"
    trtbuild = [sys.executable, "-m", "trtbuild"]
    commands = {
        PEER: [sys.executable, "-c", "import click"],
        "trtbuild --help": [*trtbuild, "--help"],
        "trtclient --help": [sys.executable, "-m", "trtclient", "--help"],
        "trtbuild models": [*trtbuild, "models"],
        "trtbuild plan llama-3-8b --gpu h100": [*trtbuild, "plan", "llama-3-8b", "--gpu", "h100"],
        "trtbuild init (hit)": [*trtbuild, "init", "--config", str(config)],
    }
    for command in commands.values():  # builds, and compiles where that is kept, so that the timed ones need not
        _time(command, env)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(_time(command, env))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{'bytecode kept' if is_kept else 'no bytecode of trtbuild':<38} {'median ms':>10} {'min ms':>8} {'ratio':>6}"
    )
    for name, median in medians.items():
        print(f"{name:<38} {median * 1000:>10.0f} {min(times[name]) * 1000:>8.0f} {median / medians[PEER]:>6.2f}")
    return {"medians_s": medians, "ratios": {name: median / medians[PEER] for name, median in medians.items()}}


def _time(command: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
