"""Versions of TensorRT-LLM in order, and which entries of a table apply to one.

It decides what is older than what. Which releases there are is in the tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_VERSION = re.compile(r"^(?P<release>\d+(?:\.\d+)*)(?:(?P<pre>a|b|rc)(?P<pre_n>\d+))?(?P<rest>.*)$")
_POST = re.compile(r"\.?post(\d+)")
_DEV = re.compile(r"\.?dev(\d+)")


def parse_version(text: str) -> tuple[tuple[int, ...], int, int, int]:
    """Return a sortable key for a version such as ``0.17.0.post1``, ``1.0.3.2510`` or ``1.3.0rc20``.

    Raises:
        ValueError: The text does not start with a number.
    """
    match = _VERSION.match(text.strip())
    if match is None:
        raise ValueError(f"expected a version such as 1.2.1, got {text!r}")
    release = tuple(int(part) for part in match["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    rest = match["rest"]
    post = _POST.search(rest)
    is_pre = bool(match["pre"]) or bool(_DEV.search(rest))
    return release, 0 if is_pre else 1, int(match["pre_n"] or 0), int(post[1]) if post else 0


def minor(text: str) -> tuple[int, int]:
    """Return the line of releases that a version belongs to: ``(1, 2)`` for 1.2.1."""
    numbers = [int(part) for part in re.findall(r"\d+", text)[:2]]
    return numbers[0], numbers[1] if len(numbers) > 1 else 0


def applies(entry: Mapping[str, Any], version: str) -> bool:
    """Whether ``since``/``until`` of a table entry include a release."""
    key = parse_version(version)
    since, until = entry.get("since"), entry.get("until")
    return (since is None or key >= parse_version(since)) and (until is None or key <= parse_version(until))
