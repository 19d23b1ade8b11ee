"""What foreign tools mean when they fail: their words, found in a log, in ours.

It decides which known complaint a log shows. It does not decide what failed or what happens next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from trtbuild.catalog.loading import load


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """A known way to fail.

    Attributes:
        name: Stable name.
        pattern: Searched in each line; None when only the exit code tells.
        exit_codes: Exit codes that mean it without any text.
        says: Our message with ``{group}`` fields.
        hint: What to do.
    """

    name: str
    pattern: re.Pattern[str] | None
    exit_codes: tuple[int, ...]
    says: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A complaint found.

    Attributes:
        name: The complaint's name.
        message: What it means, with the log's details.
        hint: What to do.
        line: The line that told, or "".
    """

    name: str
    message: str
    hint: str
    line: str = ""


@cache
def complaints() -> tuple[Complaint, ...]:
    """Return all known complaints, the more particular ones first."""
    return tuple(
        Complaint(
            name=item["name"],
            pattern=re.compile(item["pattern"]) if "pattern" in item else None,
            exit_codes=tuple(item.get("exit", ())),
            says=item["says"],
            hint=item["hint"],
        )
        for item in load("complaints")["complaints"]
    )


def diagnose(exit_code: int, lines: Sequence[str], *, needs: str = "") -> Diagnosis | None:
    """Return what a failed program's exit code and last lines mean, or None when nothing known is in them.

    An exit code that speaks for itself (137: killed for memory) comes before the text, which may be older.

    Args:
        exit_code: As a shell reports it.
        lines: Last lines of its output.
        needs: The memory it was expected to need, put behind a host-memory message: ``about 34 GiB``.
    """
    needed = f", needs {needs}" if needs else ""
    for complaint in complaints():
        if exit_code in complaint.exit_codes:
            return Diagnosis(name=complaint.name, message=complaint.says.format(needs=needed), hint=complaint.hint)
    for complaint in complaints():
        for line in reversed(lines):
            match = complaint.pattern.search(line) if complaint.pattern else None
            if match:
                groups = {name: value or "" for name, value in match.groupdict().items()}
                message = complaint.says.format(**{"needs": needed, **groups})
                return Diagnosis(name=complaint.name, message=message, hint=complaint.hint, line=line.strip())
    return None
