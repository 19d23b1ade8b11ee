#!/usr/bin/env python3
"""Write the table of rooms and the pictures of docs/architecture.md from architecture.toml; ``--check`` only compares.

It decides how a room, a box and an arrow look. A name in a picture that the source does not have, a room that no
picture shows and a text that is wider than its box are errors, so a picture cannot go stale unseen.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "builder" / "trtbuild"
PAGE = ROOT / "docs" / "architecture.md"
DATA: Mapping[str, Any] = tomllib.loads((ROOT / "tools" / "architecture.toml").read_text(encoding="utf-8"))
LAYERS: Sequence[Mapping[str, Any]] = DATA["layer"]

FILLS = ("#e8eaed", "#dfe7f5", "#cfe3f7", "#fdeccc", "#fbdcc8", "#d9eed8", "#eadcf2")
"""By layer, from the bottom up: light enough for dark text, dark enough to be seen on the panel."""

STYLE = """
  .panel { fill: #f7f8fa; stroke: #c4c9d1 }
  .box { stroke: #5b6472 }
  .frame { fill: none; stroke: #6b7483; stroke-dasharray: 5 4 }
  .arrow { fill: none; stroke: #3a4351; stroke-width: 1.5 }
  text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1c2430 }
  .title { font-weight: 600; font-size: 13px }
  .code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .quiet { fill: #4b5563 }
"""
WIDTHS = {"title": 8.4, "code": 7.3, "quiet": 6.9, "text": 6.9}
"""Pixels per character in the widest usual font."""


def room_name(room: str) -> str:
    """Return a room as it is written: ``plan/`` for a package, ``host.py`` for a module.

    Raises:
        ValueError: The package has no such part.
    """
    return _source_name(PACKAGE, room)


def _source_name(root: Path, name: str) -> str:
    if (root / name).is_dir():
        return f"{name}/"
    found = next((path for path in (root / name, root / f"{name}.py") if path.is_file()), None)
    if found is None:
        raise ValueError(f"{root.relative_to(ROOT)} has no {name}: correct tools/architecture.toml")
    return str(found.relative_to(root))


def table() -> str:
    """Return the table of rooms, the highest layer first."""
    lines = ["| layer | room | what it decides |", "| --- | --- | --- |"]
    for number, layer in reversed(list(enumerate(LAYERS))):
        lines += [f"| {number} | `{room_name(room)}` | {text} |" for room, text in layer["rooms"].items()]
    return "\n".join(lines)


def _text(x: float, y: float, text: str, style: str, room: float) -> str:
    if len(text) * WIDTHS[style] > room:
        raise ValueError(f"{text!r} needs {len(text) * WIDTHS[style]:.0f} of {room:.0f} pixels")
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _wrap(names: Sequence[str], room: float) -> Iterator[str]:
    line = ""
    for name in names:
        if line and (len(line) + 2 + len(name)) * WIDTHS["code"] > room:
            yield line
            line = ""
        line += f"\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}{name}" if line else name
    if line:
        yield line


def _box(box: Mapping[str, Any], root: str) -> Iterator[str]:
    x, y, width, height = box["at"]
    room = width - 16
    yield (f'<rect class="box" fill="{FILLS[box["layer"]]}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>')
    if height < 50:  # one line: the text stands beside the title
        yield _text(x + 8, y + height / 2 + 5, box["title"], "title", 120)
        yield _text(x + 130, y + height / 2 + 5, box["text"], "text", width - 138)
        return
    names = [_source_name(ROOT / box.get("root", root), name) for name in box["code"]]
    lines = [(box["title"], "title"), *((line, "code") for line in _wrap(names, room)), (box["text"], "quiet")]
    lines += [(f"→ {box['gives']}", "text")] if "gives" in box else []
    step = (height - 12) / len(lines)
    for number, (line, style) in enumerate(lines):
        yield _text(x + 8, y + 6 + step * number + step / 2 + 4, line, style, room)


def _arrow(arrow: Mapping[str, Any]) -> Iterator[str]:
    path = "M" + " L".join(f"{x} {y}" for x, y in arrow["points"])
    start = ' marker-start="url(#head)"' if arrow.get("both") else ""
    yield f'<path class="arrow" d="{path}"{start} marker-end="url(#head)"/>'
    if "label" in arrow:
        x, y = arrow["label_at"]
        yield _text(x, y, arrow["label"], "quiet", 400)


def _layers(top: float, width: float) -> Iterator[str]:
    """Draw the layers as bands with a chip for every room, the highest layer on top."""
    height = 40
    for number, layer in enumerate(LAYERS):
        y = top + (len(LAYERS) - 1 - number) * height
        yield f'<rect class="box" fill="{FILLS[number]}" x="24" y="{y}" width="{width - 48}" height="{height}"/>'
        yield _text(34, y + 25, f"{number}  {layer['title']}", "title", 190)
        x = 230.0
        for room in layer["rooms"]:
            chip = len(room) * WIDTHS["code"] + 12
            if x + chip > width - 30:
                raise ValueError(f"layer {number} has more rooms than its band can show")
            yield f'<rect class="panel" x="{x:g}" y="{y + 8}" width="{chip:g}" height="24" rx="4"/>'
            yield _text(x + 6, y + 24, room, "code", chip)
            x += chip + 6


def draw(picture: Mapping[str, Any]) -> str:
    """Return a picture as SVG.

    Raises:
        ValueError: It names what does not exist, or something does not fit.
    """
    width, height = picture["size"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' role="img" aria-labelledby="title">',
        f'<title id="title">{escape(picture["title"])}</title>',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
        ' orient="auto-start-reverse" markerUnits="userSpaceOnUse"><path d="M0 0 L8 4 L0 8 z" fill="#3a4351"/>'
        "</marker></defs>",
        f'<rect class="panel" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    for frame in picture["frames"]:
        x, y, wide, high = frame["at"]
        parts.append(f'<rect class="frame" x="{x}" y="{y}" width="{wide}" height="{high}" rx="6"/>')
        line = y + high - 6 if "below" in frame else y + 18
        parts.append(_text(x + frame["indent"], line, frame["label"], "quiet", wide - frame["indent"]))
    for box in picture["boxes"]:
        parts += _box(box, picture["root"])
    for arrow in picture["arrows"]:
        parts += _arrow(arrow)
    if "layers_at" in picture:
        parts.append(_text(24, picture["layers_at"] - 10, picture["layers_note"], "quiet", width - 48))
        parts += _layers(picture["layers_at"], width)
    return "\n".join([*parts, "</svg>", ""])


def render() -> dict[Path, str]:
    """Return every file that is generated, and what belongs into it."""
    page = PAGE.read_text(encoding="utf-8")
    written = re.sub(
        r"(<!-- rooms -->\n).*?(<!-- end of rooms -->)", lambda m: f"{m[1]}{table()}\n{m[2]}", page, flags=re.DOTALL
    )
    pictures = {ROOT / "docs" / "pictures" / picture["file"]: draw(picture) for picture in DATA["picture"]}
    return {PAGE: written, **pictures}


def main() -> int:
    """Write or compare."""
    stale = [p for p, text in render().items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is stale' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(render()[path], encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
