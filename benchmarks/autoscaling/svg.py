"""Line charts as SVG text: panels above each other over one time axis. No dependencies."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLORS = ("#1f6fb4", "#d9541e", "#2c8a3d", "#7b4fa3", "#8a6d3b", "#c2338a", "#4d4d4d", "#0fa3a3")
WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 1000, 190, 64, 250, 60, 44


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve.

    Attributes:
        is_stepped: Draw it as a staircase: the value holds until the next point.
        is_dashed: Draw it dashed.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    is_stepped: bool = False
    is_dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart with its own vertical axis, from 0.

    Attributes:
        top: Highest value shown, or None for the data's.
    """

    title: str
    lines: Sequence[Line]
    top: float | None = None


def _nice(value: float) -> float:
    """Return a round number that is not below ``value``."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def _path(line: Line, x_max: float, y_max: float, top: float) -> str:
    wide = WIDTH - LEFT - RIGHT
    points: list[str] = []
    previous = None
    for x, y in zip(line.x, line.y, strict=True):
        px = LEFT + wide * x / x_max
        py = top + PANEL * (1 - min(y, y_max) / y_max)
        if line.is_stepped and previous is not None:
            points.append(f"{px:.1f},{previous:.1f}")
        points.append(f"{px:.1f},{py:.1f}")
        previous = py
    return " ".join(points)


def _panel(panel: Panel, top: float, x_max: float) -> list[str]:
    highest = max((max(line.y, default=0.0) for line in panel.lines), default=1.0)
    y_max = panel.top if panel.top is not None else _nice(highest)
    right = WIDTH - RIGHT
    out = [f'<text x="{LEFT}" y="{top - 8}" class="t">{html.escape(panel.title)}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + PANEL * (1 - share)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" class="g"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="n" text-anchor="end">{y_max * share:g}</text>')
    for number, line in enumerate(panel.lines):
        color = COLORS[number % len(COLORS)]
        dash = ' stroke-dasharray="6 4"' if line.is_dashed else ""
        out.append(f'<polyline points="{_path(line, x_max, y_max, top)}" class="l" stroke="{color}"{dash}/>')
        if not line.name:
            continue
        y = top + 12 + 18 * number
        out.append(f'<line x1="{right + 10}" y1="{y}" x2="{right + 32}" y2="{y}" class="l" stroke="{color}"{dash}/>')
        out.append(f'<text x="{right + 38}" y="{y + 4}" class="n">{html.escape(line.name)}</text>')
    return out


def chart(title: str, panels: Sequence[Panel], *, x_title: str = "minutes") -> str:
    """Return an SVG document of the panels over one horizontal axis."""
    x_max = max((line.x[-1] for panel in panels for line in panel.lines if line.x), default=1.0) or 1.0
    height = TOP + len(panels) * (PANEL + GAP) + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        "<style>text{font-family:sans-serif;fill:#222}.t{font-size:14px;font-weight:bold}.n{font-size:12px}"
        ".h{font-size:16px;font-weight:bold}.g{stroke:#ddd}.l{fill:none;stroke-width:1.8}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" class="h">{html.escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        out += _panel(panel, TOP + number * (PANEL + GAP), x_max)
    foot = TOP + len(panels) * (PANEL + GAP) - GAP + 18
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + (WIDTH - LEFT - RIGHT) * share
        out.append(f'<text x="{x:.1f}" y="{foot}" class="n" text-anchor="middle">{x_max * share:.0f}</text>')
    out.append(f'<text x="{WIDTH - RIGHT + 30}" y="{foot}" class="n">{html.escape(x_title)}</text></svg>')
    return "\n".join(out) + "\n"
