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
        pattern: Searched in each line; None when only the exit code identifies it.
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
        line: The line that matched, or "".
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


@cache
def harmless() -> tuple[re.Pattern[str], ...]:
    """Return what lines look like that healthy programs write as well."""
    return tuple(re.compile(item["pattern"]) for item in load("complaints")["harmless"])


_WARNING = re.compile(r"^W\d{4} |^\[?WARN(?:ING)?\b|\[W\]|\[WARNING\]|\w*Warning: ")
"""How Triton (glog), TensorRT-LLM and Python mark a line as a warning."""


def _by_weight(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the lines that may say why a program failed, last line first: first all that are no warnings."""
    relevant = [line for line in reversed(lines) if not any(pattern.search(line) for pattern in harmless())]
    warnings = [line for line in relevant if _WARNING.search(line)]
    return [line for line in relevant if not _WARNING.search(line)], warnings


def diagnose(exit_code: int, lines: Sequence[str], *, needs: str = "") -> Diagnosis | None:
    """Return what a failed program's exit code and last lines mean, or None when nothing known is in them.

    An exit code that speaks for itself (137: killed for memory) comes before the text, which may be older. A warning
    is believed only where no other line says anything known, and a line of healthy programs never is.

    Args:
        exit_code: As a shell reports it.
        lines: Last lines of its output.
        needs: The memory it was expected to need, put behind a host-memory message: ``about 34 GiB``.
    """
    needed = f", needs {needs}" if needs else ""
    for complaint in complaints():
        if exit_code in complaint.exit_codes:
            return Diagnosis(name=complaint.name, message=complaint.says.format(needs=needed), hint=complaint.hint)
    for candidates in _by_weight(lines):
        if found := _first_match(candidates, needed):
            return found
    return None


def _first_match(lines: Sequence[str], needed: str) -> Diagnosis | None:
    for complaint in complaints():
        for line in lines:
            match = complaint.pattern.search(line) if complaint.pattern else None
            if match:
                groups = {name: value or "" for name, value in match.groupdict().items()}
                message = complaint.says.format(**{"needs": needed, **groups})
                return Diagnosis(name=complaint.name, message=message, hint=complaint.hint, line=line.strip())
    return None
