"""Charts as SVG: lines over linear or logarithmic axes, nothing more. Text in, text out.

:func:`plot` draws into a box; colours and fonts are those of the page's style sheet. Benchmarks stack several boxes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 78, 14, 12, 38
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; ``style`` names classes of the page's style sheet (a colour, ``dashed``)."""

    label: str
    points: Sequence[Point]
    style: str
    is_step: bool = False
    is_dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: its title, how a value is written, whether it is logarithmic, and its ends if not the data's."""

    title: str
    write: Callable[[float], str] = "{:g}".format
    is_log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where the area inside the axes is, in the drawing's units."""

    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round values that span ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in _STEPS if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten between ``low`` and ``high``; with 2 and 5 where there are few."""
    exponents = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    factors = (1, 2, 5) if high < 1000 * low else (1,)
    found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


@dataclass(frozen=True, kw_only=True)
class _Scale:
    low: float
    high: float
    is_log: bool
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.is_log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (min(value, self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def _scale(values: Sequence[float], axis: Axis, start: float, end: float) -> _Scale:
    if axis.is_log:
        positive = [value for value in values if value > 0] or [1.0]
        low, high = min(positive), max(positive)
        return _Scale(low=low / 1.2, high=max(high, low * 1.01) * 1.2, is_log=True, start=start, end=end)
    low = axis.low if axis.low is not None else min(values)
    high = axis.high if axis.high is not None else max(values)
    return _Scale(low=low, high=high if high > low else low + 1.0, is_log=False, start=start, end=end)


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return a figure with the lines, a grid, titles and a legend; a sentence where there is nothing to show."""
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    shown = [line for line in lines if line.points]
    if not shown:
        return f'<figure>{caption}<p class="none">no values</p></figure>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        *plot(shown, x, y, Box()),
        f'<text class="x title" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}">{html.escape(x.title)}</text>',
        f'<text class="x title" transform="translate(12 {middle}) rotate(-90)">{html.escape(y.title)}</text>',
    ]
    legend = "".join(f'<span class="{line.style}">{html.escape(line.label)}</span>' for line in shown)
    return f'<figure>{caption}{"".join(parts)}</svg><div class="legend">{legend}</div></figure>'


def plot(lines: Sequence[Line], x: Axis, y: Axis, box: Box) -> list[str]:
    """Return the elements of the grid, its values and the lines, of which one at least has points."""
    points = [point for line in lines for point in line.points]
    across = _scale([point[0] for point in points], x, box.left, box.right)
    up = _scale([point[1] for point in points], y, box.bottom, box.top)
    parts = []
    for value in log_ticks(up.low, up.high) if y.is_log else ticks(up.low, up.high):
        parts.append(f'<line class="grid" x1="{box.left}" x2="{box.right}" y1="{up(value)}" y2="{up(value)}"/>')
        parts.append(f'<text class="y" x="{box.left - 6}" y="{up(value) + 4}">{html.escape(y.write(value))}</text>')
    for value in log_ticks(across.low, across.high) if x.is_log else ticks(across.low, across.high, 7):
        at = across(value)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{box.top}" y2="{box.bottom}"/>')
        parts.append(f'<text class="x" x="{at}" y="{box.bottom + 15}">{html.escape(x.write(value))}</text>')
    return parts + [_draw(line, across, up) for line in lines if line.points]


def _draw(line: Line, across: _Scale, up: _Scale) -> str:
    if line.is_dots:
        radius = 2.6 if len(line.points) < 500 else 1.6
        return "".join(
            f'<circle class="{line.style}" cx="{across(x)}" cy="{up(y)}" r="{radius}"/>' for x, y in line.points
        )
    path, previous = [], 0.0
    for number, (x, y) in enumerate(line.points):
        if number and line.is_step:
            path.append(f"L{across(x)} {previous}")
        path.append(f"{'L' if number else 'M'}{across(x)} {up(y)}")
        previous = up(y)
    return f'<path class="{line.style}" d="{"".join(path)}"/>'
