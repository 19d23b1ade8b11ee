"""Every benchmark in one command, each in its short form: ``python -m benchmarks [--out DIRECTORY] [NAME ...]``.

Prints each table as it comes and writes one JSON file per benchmark. Figures are ratios within one run; quote them with
the command and never compare absolute times between machines.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
JSON = "{json}"
RUNS: dict[str, tuple[str, list[str]]] = {
    "cli": ("start-up and warm init against importing click", ["benchmarks.cli.run", "--runs", "5", "--json", JSON]),
    "end_to_end": (
        "nothing to first token, cold and warm",
        ["benchmarks.end_to_end.run", "--runs", "1", "--json", JSON],
    ),
    "cpu_engine": ("the cpu engine's tokens/s at 1 and 8 streams", ["benchmarks.cpu_engine.run", "--repeat", "1"]),
    "front": ("the front model against upstream's ensemble and BLS", ["benchmarks.front.run", "--json", JSON]),
    "download": (
        "download against huggingface_hub and raw sockets",
        ["benchmarks.download.run", "--size-mib", "256", "--rounds", "1", "--json", JSON],
    ),
    "store": (
        "publish, verify, hit, push and pull against cp",
        ["benchmarks.store.run", "--runs", "2", "--json", JSON],
    ),
    "client": ("schedule accuracy and cost per stream", ["benchmarks.client.run", "--json", JSON]),
    "rule_cost": ("rules at 1,000 pods against the published ones", ["benchmarks.rule_cost", "--seconds", "60"]),
}
"""Name -> what it compares, and the module with the arguments of its short form."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(RUNS)}; default: all")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the tables and JSON files")
    options = parser.parse_args()
    unknown = set(options.names) - set(RUNS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.names or RUNS if not run(name, options.out)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(name: str, out: Path) -> bool:
    """Run one benchmark, showing and keeping what it prints; return whether it succeeded."""
    what, (module, *arguments) = RUNS[name]
    print(f"\n== {name}: {what}", flush=True)
    target = str((out / f"{name}.json").resolve())
    command = [sys.executable, "-m", module, *(target if word == JSON else word for word in arguments)]
    with (out / f"{name}.txt").open("w") as kept:
        child = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                print(line, end="", flush=True)
                kept.write(line)
        return child.wait() == 0


if __name__ == "__main__":
    main()
