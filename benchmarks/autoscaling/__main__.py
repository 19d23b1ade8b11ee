"""Command line: ``python -m benchmarks.autoscaling EXPERIMENT [--seeds 101,102] [--out DIR]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.autoscaling.balancing import KubeProxy
from benchmarks.autoscaling.experiments import A100_RPS, EXPERIMENTS, HELD_OUT_SEEDS, ONE_SKU, Output
from benchmarks.autoscaling.policies import COMPARED
from benchmarks.autoscaling.report import plot, summarize, table
from benchmarks.autoscaling.simulate import Scenario, simulate
from benchmarks.autoscaling.traces import replay


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas, as in 101,102; got {text!r}") from None


def _replay(path: Path, seeds: Sequence[int]) -> Output:
    """Compare all policies on recorded arrivals."""
    scenario = Scenario(trace=replay(path), groups=ONE_SKU, balancer=KubeProxy)
    runs = [simulate(scenario, policy, seeds[0]) for policy in COMPARED]
    text = table([summarize(run.policy, [run]) for run in runs])
    return Output(text=text, plots={"replay.svg": plot(str(path.name), runs[:2], capacity_rps=A100_RPS)})


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling", description=__doc__)
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for name, run in EXPERIMENTS.items():
        commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0], description=run.__doc__)
    replayed = commands.add_parser("replay", help="All policies on recorded arrivals.")
    replayed.add_argument("path", type=Path, help="CSV; the first column is the time of arrival in seconds")
    for command in commands.choices.values():
        command.add_argument(
            "--seeds", type=_seeds, default=HELD_OUT_SEEDS, help="default: %(default)s (never tuned on)"
        )
        command.add_argument("--out", type=Path, help="folder for the plots (SVG)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one experiment; returns 1 where a goal was missed."""
    options = _arguments(argv)
    if options.experiment == "replay":
        output = _replay(options.path, options.seeds)
    else:
        output = EXPERIMENTS[options.experiment](options.seeds)
    sys.stdout.write(output.text + "\n")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, svg in output.plots.items():
            (options.out / name).write_text(svg, encoding="utf-8")
            sys.stderr.write(f"wrote {options.out / name}\n")
    return 0 if output.is_met else 1


if __name__ == "__main__":
    sys.exit(main())
