"""Line and scatter charts as SVG text, to stand inside a page: no script, values as tooltips."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2f6fde", "#e4572e", "#2a9d8f", "#8e5bd6", "#c98a00", "#5b6472")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
INK, SOFT, LINE = "#16191d", "#667080", "#e6e9ee"
WIDTH, HEIGHT = 580, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 58, 46


@dataclass(frozen=True)
class Series:
    """A named line or set of points (x, y); points that are not finite interrupt a line and are not drawn."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its label, whether values are shares to print in percent, whether it starts at zero."""

    label: str
    percent: bool = False
    from_zero: bool = False

    def text(self, value: float) -> str:
        """A value as its tick is printed."""
        return f"{100 * value:g}%" if self.percent else f"{value:g}"


@dataclass(frozen=True)
class Scale:
    """Data values low..high on pixels first..last, with round ticks."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        """About five round values from low to high."""
        step = round_step((self.high - self.low) / 4)
        count = math.floor(self.high / step + 1e-9) - math.ceil(self.low / step - 1e-9) + 1
        start = math.ceil(self.low / step - 1e-9)
        return [round((start + number) * step, 12) + 0.0 for number in range(count)]


def round_step(rough: float) -> float:
    """The nearest of 1, 2, 2.5, 5 times a power of ten not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Lines over x; an empty string when no series has a point. A series keeps its colour when others have none."""
    return _chart(title, series, x, y, _line)


def scatter_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Points with their series' name beside them; an empty string when no series has a point."""
    return _chart(title, series, x, y, _points)


Draw = Callable[[int, Series, Scale, Scale, Axis, Axis], str]


def _chart(title: str, series: Sequence[Series], x: Axis, y: Axis, draw: Draw) -> str:
    shown = {number: Series(one.name, _finite(one.points)) for number, one in enumerate(series) if _finite(one.points)}
    if not shown:
        return ""
    across = _scale([point[0] for one in shown.values() for point in one.points], x, LEFT, WIDTH - RIGHT)
    up = _scale([point[1] for one in shown.values() for point in one.points], y, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="inherit" font-size="12">',
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="600" fill="{INK}">{escape(title)}</text>',
        _frame(across, up, x, y),
        *(draw(number, one, across, up, x, y) for number, one in shown.items()),
        _legend(shown) if draw is _line else "",
        "</svg>",
    ]
    return "<figure>" + "\n".join(part for part in parts if part) + "</figure>"


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _scale(values: Sequence[float], axis: Axis, first: float, last: float) -> Scale:
    """The range of the values with a little air, at least as wide as can be told apart."""
    low, high = min(values), max(values)
    if axis.from_zero:
        low = min(0.0, low)
    width = (high - low) or abs(high) or 1.0
    low = low if axis.from_zero and low == 0 else low - 0.04 * width
    return Scale(low, high + 0.04 * width, first, last)


def _frame(across: Scale, up: Scale, x: Axis, y: Axis) -> str:
    lines = []
    for value in up.ticks():
        at = f"{up(value):.1f}"
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="{LINE}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{at}" dy="4" text-anchor="end" fill="{SOFT}">{y.text(value)}</text>')
    for value in across.ticks():
        at = f"{across(value):.1f}"
        below = HEIGHT - BOTTOM
        lines.append(f'<line x1="{at}" x2="{at}" y1="{below}" y2="{below + 4}" stroke="{SOFT}"/>')
        lines.append(f'<text x="{at}" y="{below + 18}" text-anchor="middle" fill="{SOFT}">{x.text(value)}</text>')
    lines.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end" fill="{SOFT}">{escape(x.label)}</text>')
    if y.label:
        lines.append(f'<text x="{WIDTH - RIGHT}" y="18" text-anchor="end" fill="{SOFT}">{escape(y.label)}</text>')
    return "\n".join(lines)


def _style(number: int) -> tuple[str, str]:
    """Colour and dash of the n-th series: another dash once the colours are used up."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _line(number: int, one: Series, across: Scale, up: Scale, x: Axis, y: Axis) -> str:
    colour, dash = _style(number)
    path = "M" + " L".join(f"{across(a):.1f} {up(b):.1f}" for a, b in one.points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    drawn = f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"{dashed}/>'
    marked = one.points if len(one.points) <= 40 else [one.points[-1]]
    radius = 2.5 if len(one.points) > 1 else 4
    return drawn + "".join(_dot(one.name, a, b, across, up, x, y, colour, radius) for a, b in marked)


def _points(number: int, one: Series, across: Scale, up: Scale, x: Axis, y: Axis) -> str:
    colour, _ = _style(number)
    dots = "".join(_dot(one.name, a, b, across, up, x, y, colour, 5) for a, b in one.points)
    a, b = one.points[0]
    right = across(a) > 0.7 * WIDTH
    place = (
        f'x="{across(a) + (-9 if right else 9):.1f}" y="{up(b):.1f}" dy="4" text-anchor="{"end" if right else "start"}"'
    )
    return f'{dots}<text {place} fill="{INK}">{escape(one.name)}</text>'


def _dot(name: str, a: float, b: float, across: Scale, up: Scale, x: Axis, y: Axis, colour: str, radius: float) -> str:
    told = f"{name}: {y.text(round(b, 4))} at {x.text(round(a, 4))}"
    return (
        f'<circle cx="{across(a):.1f}" cy="{up(b):.1f}" r="{radius}" fill="{colour}">'
        f"<title>{escape(told)}</title></circle>"
    )


def _legend(series: dict[int, Series]) -> str:
    """Names with a piece of their line, in rows below the title."""
    parts, left, top = [], LEFT, 38
    for number, one in series.items():
        colour, dash = _style(number)
        wide = 30 + 6.6 * len(one.name)
        if left + wide > WIDTH - RIGHT and left > LEFT:
            left, top = LEFT, top + 14
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(
            f'<line x1="{left:.0f}" x2="{left + 16:.0f}" y1="{top - 4}" y2="{top - 4}" stroke="{colour}" '
            f'stroke-width="3"{dashed}/><text x="{left + 21:.0f}" y="{top}" fill="{INK}">{escape(one.name)}</text>'
        )
        left += wide
    return "".join(parts)
