"""Small languages of the command line: durations, rates over time, lengths, goals. Text in, frozen values out."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass
from typing import Literal

from trtbuild.errors import SpecError

_UNITS_S = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"\d+(?:\.\d+)?"


def parse_duration(text: str) -> float:
    """Return seconds from ``250ms``, ``30s``, ``2m``, ``1h`` or a bare number of seconds.

    Raises:
        SpecError: It is none of these.
    """
    found = re.fullmatch(rf"({_NUMBER})(ms|s|m|h|)", text.strip())
    if not found:
        raise SpecError(f"expected a duration, got {text!r}", hint="write it like 250ms, 30s, 2m or 1h")
    return float(found[1]) * _UNITS_S[found[2]]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of time in which the rate goes in a straight line from one value to another (requests per second)."""

    rate_from: float
    rate_to: float
    duration_s: float

    @property
    def count(self) -> float:
        """The expected number of requests in the phase."""
        return (self.rate_from + self.rate_to) / 2 * self.duration_s


def parse_rate(text: str, duration_s: float) -> tuple[Phase, ...]:
    """Return the phases of ``5``, ``2..20`` (a ramp over the whole duration) or ``2@30s,2..20@1m,20@2m``.

    Raises:
        SpecError: It is none of these, or it asks for no request at all.
    """
    phases = []
    parts = text.split(",")
    for part in parts:
        rates, _, length = part.strip().partition("@")
        found = re.fullmatch(rf"({_NUMBER})(?:\.\.({_NUMBER}))?", rates)
        if not found or (len(parts) > 1 and not length):
            raise SpecError(
                f"expected a rate in requests per second, got {text!r}",
                hint="write it like 5, 2..20 (a ramp) or 2@30s,2..20@1m,20@2m (one after the other)",
            )
        low, high = float(found[1]), float(found[2] or found[1])
        phases.append(Phase(rate_from=low, rate_to=high, duration_s=parse_duration(length) if length else duration_s))
    if sum(phase.count for phase in phases) <= 0:
        raise SpecError(f"the rate {text!r} asks for no request", hint="a rate above 0 for more than 0 seconds")
    return tuple(phases)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A distribution of token counts; every draw is at least 1.

    ``fixed``: ``a``; ``uniform``: from ``a`` to ``b``; ``normal``: mean ``a``, standard deviation ``b``;
    ``lognormal``: median ``a``, sigma of the logarithm ``b``.
    """

    shape: Literal["fixed", "uniform", "normal", "lognormal"]
    a: float
    b: float = 0.0

    def draw(self, source: random.Random) -> int:
        """Return one length from ``source``."""
        if self.shape == "uniform":
            return source.randint(int(self.a), int(self.b))
        if self.shape == "normal":
            return max(1, round(source.gauss(self.a, self.b)))
        if self.shape == "lognormal":
            return max(1, round(self.a * math.exp(source.gauss(0.0, self.b))))
        return int(self.a)


def parse_lengths(text: str) -> Lengths:
    """Return the distribution that ``128``, ``64..256``, ``normal:128,32`` or ``lognormal:128,0.6`` stands for.

    Raises:
        SpecError: It is none of these.
    """
    clean = text.strip()
    if re.fullmatch(r"[1-9]\d*", clean):
        return Lengths(shape="fixed", a=int(clean))
    if found := re.fullmatch(r"([1-9]\d*)\.\.(\d+)", clean):
        if int(found[1]) <= int(found[2]):
            return Lengths(shape="uniform", a=int(found[1]), b=int(found[2]))
    elif found := re.fullmatch(rf"(normal|lognormal):({_NUMBER}),({_NUMBER})", clean):
        shape: Literal["normal", "lognormal"] = "normal" if found[1] == "normal" else "lognormal"
        return Lengths(shape=shape, a=float(found[2]), b=float(found[3]))
    raise SpecError(
        f"expected a number of tokens or a distribution, got {text!r}",
        hint="write it like 128, 64..256, normal:128,32 (mean, deviation) or lognormal:128,0.6 (median, sigma)",
    )


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a request must meet to count as good; None where nothing is asked. All in seconds."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    gap_s: float | None = None
    e2e_s: float | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.ttft_s, self.tpot_s, self.gap_s, self.e2e_s))


def parse_goal(text: str) -> Goal:
    """Return the goal in ``ttft=500ms,tpot=50ms,gap=1s,e2e=10s`` (any of them).

    Raises:
        SpecError: A name is unknown or a value is no duration.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, separator, value = part.strip().partition("=")
        if not separator or name not in {"ttft", "tpot", "gap", "e2e"}:
            raise SpecError(
                f"expected a goal like ttft=500ms, got {part!r}",
                hint="ttft (first token), tpot (mean time per further token), gap (longest pause), e2e (whole answer)",
            )
        limits[f"{name}_s"] = parse_duration(value)
    return Goal(**limits)


def parse_parameter(text: str) -> tuple[str, object]:
    """Return name and value of ``temperature=0.7`` or ``stop_words=["\\n"]``: JSON where it is JSON, else text.

    Raises:
        SpecError: There is no ``=``.
    """
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise SpecError(f"expected NAME=VALUE, got {text!r}", hint="for example --param temperature=0.7")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse_shard(text: str) -> tuple[int, int]:
    """Return index and count of ``0/4``.

    Raises:
        SpecError: It is not of that form, or the index is not below the count.
    """
    found = re.fullmatch(r"(\d+)/([1-9]\d*)", text.strip())
    if not found or int(found[1]) >= int(found[2]):
        raise SpecError(f"expected INDEX/COUNT, got {text!r}", hint="the first of four is 0/4, the last 3/4")
    return int(found[1]), int(found[2])
