"""When requests are due: pure functions of the options and the seed. Nothing here waits, sends or looks at a clock.

A process of arrivals with a mean gap of one (constant, exponential or gamma distributed) is mapped through the inverse
of the expected count over time. So every arrival process works with every course of the rate, and a change of the rate
does not change the pattern.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from trtbuild.errors import SpecError
from trtclient.values import Phase

Process = Literal["constant", "poisson", "bursty"]


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One request to come.

    Attributes:
        index: Its number, from 0; it names the prompt and seeds the lengths.
        due_s: Seconds from the start of the run.
        prompt_tokens: Length of the prompt, where a trace says it.
        max_tokens: Length of the answer, where a trace says it.
    """

    index: int
    due_s: float
    prompt_tokens: int | None = None
    max_tokens: int | None = None


def gaps(process: Process, seed: int, *, burstiness: float) -> Iterator[float]:
    """Yield gaps with mean 1: all equal, exponential, or gamma with ``burstiness`` as coefficient of variation."""
    source = random.Random(seed)  # noqa: S311 - not for secrets
    if process == "constant":
        yield from itertools.repeat(1.0)
    elif process == "poisson":
        while True:
            yield source.expovariate(1.0)
    else:
        shape = 1.0 / burstiness**2  # of a gamma distribution: cv = 1 / sqrt(shape)
        while True:
            yield source.gammavariate(shape, 1.0 / shape)


def time_of_count(phases: Sequence[Phase], count: float) -> float | None:
    """Return when the expected number of arrivals reaches ``count``, in seconds; None if it never does."""
    started_s = 0.0
    for phase in phases:
        if count < phase.count:
            return started_s + _time_in_phase(phase, count)
        count -= phase.count
        started_s += phase.duration_s
    return None


def _time_in_phase(phase: Phase, count: float) -> float:
    """Solve rate_from * t + slope / 2 * t**2 = count for t, in the form that is stable for slopes near 0."""
    slope = (phase.rate_to - phase.rate_from) / phase.duration_s
    # sqrt(rate_from**2 + 2 * slope * count) without the squares, which are 0 for rates below 1e-162.
    change = math.sqrt(2 * abs(slope) * count)
    if slope >= 0:
        root = math.hypot(phase.rate_from, change)
    else:
        root = math.sqrt(max(0.0, phase.rate_from - change)) * math.sqrt(phase.rate_from + change)
    divisor = phase.rate_from + root
    return 2 * count / divisor if divisor > 0 else 0.0


def open_loop(
    phases: Sequence[Phase], process: Process, seed: int, *, burstiness: float = 3.0, limit: int | None = None
) -> list[Arrival]:
    """Return the arrivals of a rate over time, at most ``limit``; the first of a constant process is due at once."""
    arrivals: list[Arrival] = []
    count = 0.0
    for gap in gaps(process, seed, burstiness=burstiness):
        if process != "constant" or arrivals:
            count += gap
        due_s = time_of_count(phases, count)
        if due_s is None or len(arrivals) == limit:
            break
        if arrivals:
            due_s = max(due_s, arrivals[-1].due_s)  # the inverse may be off by its last bit where gaps are tiny
        arrivals.append(Arrival(index=len(arrivals), due_s=due_s))
    return arrivals


def read_trace(path: Path, *, speed: float = 1.0, limit: int | None = None) -> list[Arrival]:
    """Return the arrivals of a recorded trace, from its first request on, ``speed`` times as fast.

    JSON lines with ``at_s`` (seconds) or ``timestamp`` (milliseconds, as Mooncake's traces) and optionally
    ``input_length`` and ``output_length``; or CSV with ``TIMESTAMP``, ``ContextTokens`` and ``GeneratedTokens`` (as
    the Azure LLM inference traces).

    Raises:
        SpecError: The file cannot be read as either.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(itertools.islice(_csv_rows(file) if path.suffix == ".csv" else _json_rows(file), limit))
    except OSError as error:
        raise SpecError(
            f"cannot read the trace {path}: {error.strerror}", hint="--trace FILE.jsonl or FILE.csv"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{path} is not a trace: {type(error).__name__} {error}",
            hint='one line per request: {"at_s": 0.5, "input_length": 120, "output_length": 30}',
        ) from error
    if not rows:
        raise SpecError(f"{path} holds no request", hint="one line per request")
    rows.sort(key=lambda row: row[0])
    first_s = rows[0][0]
    return [
        Arrival(index=index, due_s=(at_s - first_s) / speed, prompt_tokens=prompt, max_tokens=output)
        for index, (at_s, prompt, output) in enumerate(rows)
    ]


_Row = tuple[float, int | None, int | None]


def _json_rows(lines: Iterator[str]) -> Iterator[_Row]:
    for line in lines:
        if line.strip():
            row = json.loads(line)
            at_s = float(row["at_s"]) if "at_s" in row else float(row["timestamp"]) / 1000
            yield at_s, _count(row.get("input_length")), _count(row.get("output_length"))


def _csv_rows(lines: Iterator[str]) -> Iterator[_Row]:
    for row in csv.DictReader(lines):
        stamp = row["TIMESTAMP"].strip()
        # Seven digits of fraction are in the published files; datetime takes six.
        whole, _, fraction = stamp.partition(".")
        at_s = datetime.fromisoformat(whole).timestamp() + (float(f"0.{fraction[:9]}") if fraction.isdigit() else 0.0)
        yield at_s, _count(row.get("ContextTokens")), _count(row.get("GeneratedTokens"))


def _count(value: object) -> int | None:
    return None if value in {None, ""} else max(1, int(str(value)))
