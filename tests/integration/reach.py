"""Let another user reach this Python and this checkout, wherever they are, without changing a permission."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def own_paths() -> list[Path]:
    """Return where this Python, its environment and the checkout are."""
    return list(dict.fromkeys(Path(item).resolve() for item in (sys.base_prefix, sys.prefix, REPOSITORY)))


def open_paths(skeletons: Path) -> list[str]:
    """Return shell lines for a mount namespace of one's own.

    Directories on the way that are closed to others (a home, a private temporary directory) are replaced by empty
    ones, made below ``skeletons``, that hold nothing but the way.
    """
    lines = []
    closed: dict[Path, Path] = {}
    for path in own_paths():
        top = next((p for p in [*reversed(path.parents)] if not p.stat().st_mode & 0o001), None)
        if top is not None:
            closed[top] = skeleton = skeletons / str(top).strip("/").replace("/", "-")
            (skeleton / path.relative_to(top)).mkdir(parents=True, exist_ok=True)
            lines.append(shlex.join(["mount", "--bind", str(path), str(skeleton / path.relative_to(top))]))
    return lines + [shlex.join(["mount", "--rbind", str(skeleton), str(top)]) for top, skeleton in closed.items()]
