"""Several models' metrics as one text: each family once, with the samples of all.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (a family has one HELP and
one TYPE, and its samples stand together).
"""

from __future__ import annotations

from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def merge(texts: Iterable[bytes]) -> bytes:
    """Return the texts as one."""
    comments: dict[bytes, dict[bytes, bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for text in texts:
        family = b""
        for line in text.splitlines():
            if line.startswith((b"# HELP ", b"# TYPE ")):
                _, kind, family, *_ = line.split(b" ", 3)
                comments.setdefault(family, {}).setdefault(kind, line)
                samples.setdefault(family, [])
            elif line and not line.startswith(b"#"):
                samples.setdefault(family, []).append(line)
    lines = []
    for family, found in samples.items():
        lines += [*comments.get(family, {}).values(), *found]
    return b"".join(line + b"\n" for line in lines)
