"""Several charts above each other over one time axis, as an SVG document; the charts are drawn by ``trtclient``."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from trtclient.load.svg import Axis, Box, Line, plot

COLORS = {
    "a": "#1f6fb4", "b": "#d9541e", "c": "#2c8a3d", "d": "#7b4fa3",
    "e": "#8a6d3b", "f": "#c2338a", "g": "#4d4d4d", "h": "#0fa3a3",
}  # fmt: skip
STYLES = tuple(COLORS)
"""Styles of lines; more lines than these begin again."""

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 1000, 190, 64, 250, 60, 60
_CSS = (
    "text{font-family:sans-serif;fill:#222;font-size:12px}.x{text-anchor:middle}.y{text-anchor:end}"
    ".t{font-size:14px;font-weight:bold}.h{font-size:16px;font-weight:bold}.grid{stroke:#ddd}"
    "path{fill:none;stroke-width:1.8}.dashed{stroke-dasharray:6 4}"
    + "".join(f"path.{style}{{stroke:{color}}}" for style, color in COLORS.items())
)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart with its own vertical axis, from 0.

    Attributes:
        top: Highest value shown, or None for the data's.
    """

    title: str
    lines: Sequence[Line]
    top: float | None = None


def style(number: int) -> str:
    """Return the style of a numbered line, so that the same thing has the same colour in every panel."""
    return STYLES[number % len(STYLES)]


def document(title: str, panels: Sequence[Panel], *, x_title: str = "minutes") -> str:
    """Return an SVG document of the panels over one horizontal axis."""
    x_max = max((line.points[-1][0] for panel in panels for line in panel.lines if line.points), default=1.0) or 1.0
    height = TOP + len(panels) * (PANEL + GAP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f'<style>{_CSS}</style><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" class="h">{html.escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        out += _panel(panel, TOP + number * (PANEL + GAP), Axis(title=x_title, low=0.0, high=x_max))
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(panel: Panel, top: float, x: Axis) -> list[str]:
    box = Box(left=LEFT, right=WIDTH - RIGHT, top=top, bottom=top + PANEL)
    out = [f'<text x="{LEFT}" y="{top - 8}" class="t">{html.escape(panel.title)}</text>']
    if any(line.points for line in panel.lines):
        out += plot(panel.lines, x, Axis(title="", low=0.0, high=panel.top), box)
    out.append(f'<text x="{box.right + 30}" y="{box.bottom + 15}">{html.escape(x.title)}</text>')
    for number, line in enumerate(panel.lines):
        y = top + 12 + 18 * number
        out.append(f'<path class="{line.style}" d="M{box.right + 10} {y}H{box.right + 32}"/>')
        out.append(f'<text x="{box.right + 38}" y="{y + 4}">{html.escape(line.label)}</text>')
    return out
