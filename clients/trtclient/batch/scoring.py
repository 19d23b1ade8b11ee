"""Whether an answer is right: pure functions of the answer and its references."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
TOLERANCE = 1e-6


def last_number(text: str) -> float | None:
    """Return the last number in a text (``1,234.5`` too), where answers usually end; None if there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _exact(answer: str, reference: str) -> bool:
    return answer.strip() == reference.strip()


def _contains(answer: str, reference: str) -> bool:
    return reference in answer


def _regex(answer: str, reference: str) -> bool:
    return re.search(reference, answer) is not None


def _numeric(answer: str, reference: str) -> bool:
    got, wanted = last_number(answer), last_number(reference)
    return got is not None and wanted is not None and math.isclose(got, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


SCORES: Mapping[str, Callable[[str, str], bool]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "numeric": _numeric,
}
"""How an answer may be compared with a reference."""


def score(how: str, answer: str, references: Sequence[str]) -> bool:
    """Return whether ``answer`` is right by any of the references."""
    return any(SCORES[how](answer, reference) for reference in references)


def interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share.

    Source: E. B. Wilson, 1927; unlike the normal approximation it holds for shares near 0 and 1.
    """
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
