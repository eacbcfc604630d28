"""Pictures made of panels: a heading, images side by side with captions, a strip of ratios and a colour scale below.

Everything is drawn with Pillow and its built-in typeface, so a figure looks the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sptcore.viz.heatmap import colours

INK, SOFT, LINE, PAPER = "#16191d", "#667080", "#dfe3e8", "#ffffff"
BAR, BAR_LABEL = "#2f6fde", "#e4572e"
LEAST_SIDE, MOST_SIDE = 440, 1280
STRIP_HEIGHT = 8.4  # in units of body type


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: RGB uint8 (H, W, 3), what it is, and a second line in small type."""

    image: np.ndarray
    title: str
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """A block's share of selected tokens, and the share its label asks for (None where no label is known)."""

    stage: int
    name: str
    ratio: float
    label_ratio: float | None = None


@dataclass(frozen=True)
class Strip:
    """The bars of one model, in a row."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Scale:
    """A colour scale: what it shows, the colour map, what its two ends mean, and how many steps lie between."""

    title: str
    colormap: str
    low: str
    high: str
    steps: int


@dataclass(frozen=True)
class Figure:
    """All that `draw` needs. `badge` is a mark put on every panel (the bundled weights say "demo weights")."""

    heading: str
    panels: Sequence[Panel]
    subheading: str = ""
    strips: Sequence[Strip] = ()
    scale: Scale | None = None
    badge: str = ""


def display_size(height: int, width: int, *, most: int = MOST_SIDE) -> tuple[int, int]:
    """The (height, width) an image is drawn at: small ones by a whole factor larger, large ones reduced to `most`."""
    longest = max(height, width)
    if longest < LEAST_SIDE:
        factor = math.ceil(LEAST_SIDE / longest)
        return height * factor, width * factor
    factor = min(1.0, most / longest)
    return max(1, round(height * factor)), max(1, round(width * factor))


def fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image` at height x width: area average downward, cubic upward; unchanged where the size is right."""
    if image.shape[:2] == (height, width):
        return image
    smaller = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


@lru_cache(maxsize=32)
def typeface(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface at `size` pixels."""
    return ImageFont.load_default(size)


def draw(figure: Figure, *, columns: int | None = None) -> Image.Image:
    """The figure as one RGB picture; `columns` panels a row (default: all in one row up to three)."""
    sheet = _Sheet(figure, columns or min(3, len(figure.panels)))
    sheet.heading()
    sheet.panels()
    if figure.strips or figure.scale:
        sheet.footer()
    return sheet.picture


class _Sheet:
    """The paper a figure is drawn on: sizes settled first, then each part at its place."""

    def __init__(self, figure: Figure, columns: int) -> None:
        self.figure, self.columns = figure, columns
        self.cell_height = max(panel.image.shape[0] for panel in figure.panels)
        self.cell_width = max(panel.image.shape[1] for panel in figure.panels)
        self.rows = math.ceil(len(figure.panels) / columns)
        content = columns * self.cell_width
        self.unit = int(min(24, max(14, content / 64)))  # the size of body type; everything follows it
        self.margin = 2 * self.unit
        self.caption = round((3.6 if any(panel.note for panel in figure.panels) else 2.2) * self.unit)
        self.gap = self.unit
        self.width = 2 * self.margin + content + (columns - 1) * self.gap
        self.top = self.margin + round((3.6 if figure.subheading else 2.2) * self.unit)
        self.panel_end = self.top + self.rows * (self.cell_height + self.caption)
        strips = max(len(figure.strips), 1 if figure.scale else 0)
        footer = round((STRIP_HEIGHT * strips + 0.6) * self.unit) if strips else 0
        self.picture = Image.new("RGB", (self.width, self.panel_end + footer + self.margin // 2), PAPER)
        self.pen = ImageDraw.Draw(self.picture)

    def text(self, x: float, y: float, words: str, *, size: float = 1.0, fill: str = INK, anchor: str = "la") -> None:
        self.pen.text((x, y), words, fill=fill, font=typeface(round(size * self.unit)), anchor=anchor)

    def shorten(self, words: str, room: float, size: float) -> str:
        """`words`, cut with an ellipsis in the middle where they are wider than `room` pixels."""
        font = typeface(round(size * self.unit))
        if self.pen.textlength(words, font=font) <= room:
            return words
        for kept in range(len(words) - 1, 3, -1):
            short = words[: (kept + 1) // 2] + "…" + words[len(words) - kept // 2 :]
            if self.pen.textlength(short, font=font) <= room:
                return short
        return words[:3] + "…"

    def heading(self) -> None:
        room = self.width - 2 * self.margin
        self.text(self.margin, self.margin * 0.7, self.shorten(self.figure.heading, room, 1.35), size=1.35)
        if self.figure.subheading:
            words = self.shorten(self.figure.subheading, room, 0.95)
            self.text(self.margin, self.margin * 0.7 + 2.0 * self.unit, words, size=0.95, fill=SOFT)

    def panels(self) -> None:
        for number, panel in enumerate(self.figure.panels):
            row, column = divmod(number, self.columns)
            x = self.margin + column * (self.cell_width + self.gap)
            y = self.top + row * (self.cell_height + self.caption)
            self.picture.paste(Image.fromarray(panel.image), (x, y))
            if self.figure.badge:
                self.badge(x, y)
            below = y + self.cell_height + 0.5 * self.unit
            self.text(x, below, self.shorten(panel.title, self.cell_width, 1.0))
            note = self.shorten(panel.note, self.cell_width, 0.85)
            self.text(x, below + 1.4 * self.unit, note, size=0.85, fill=SOFT)

    def badge(self, x: int, y: int) -> None:
        """The mark in a panel's upper left corner: white on a dark, half-transparent plate."""
        font = typeface(round(0.9 * self.unit))
        wide = round(self.pen.textlength(self.figure.badge, font=font) + self.unit)
        tall = round(1.7 * self.unit)
        inset = round(0.5 * self.unit)
        plate = Image.new("L", (wide, tall), 0)
        ImageDraw.Draw(plate).rounded_rectangle((0, 0, wide - 1, tall - 1), radius=tall // 3, fill=190)
        self.picture.paste("#101317", (x + inset, y + inset), plate)
        self.text(x + inset + wide / 2, y + inset + tall / 2, self.figure.badge, size=0.9, fill=PAPER, anchor="mm")

    def footer(self) -> None:
        """The strip of ratios at the left, the colour scale at the right."""
        top = self.panel_end + 0.4 * self.unit
        self.pen.line((self.margin, top, self.width - self.margin, top), fill=LINE)
        scale_width = min(16 * self.unit, (self.width - 2 * self.margin) * 0.3) if self.figure.scale else 0
        right = self.width - self.margin
        strip_end = right - scale_width - (2.5 * self.unit if scale_width else 0)
        for place, strip in enumerate(self.figure.strips):
            self.ratio_strip(strip, self.margin, top + (1 + place * STRIP_HEIGHT) * self.unit, strip_end)
        if self.figure.scale:
            self.colour_scale(self.figure.scale, right - scale_width, top + self.unit, right)

    def ratio_strip(self, strip: Strip, left: float, top: float, right: float) -> None:
        """A bar for every block; those of another stage stand a little apart."""
        labelled = any(bar.label_ratio is not None for bar in strip.bars)
        title = strip.title + ("; line: label" if labelled else "")
        self.text(left, top, self.shorten(title, right - left, 0.85), size=0.85, fill=SOFT)
        step = min(4.2 * self.unit, (right - left) / (len(strip.bars) + 0.5))
        ceiling, floor = top + 2.9 * self.unit, top + 5.8 * self.unit
        for place, bar in enumerate(strip.bars):
            later_stages = len({other.stage for other in strip.bars[:place]} - {bar.stage})
            self.bar(bar, left + (place + 0.15 * later_stages) * step, step, ceiling, floor)

    def bar(self, bar: Bar, x: float, step: float, ceiling: float, floor: float) -> None:
        """One block: a track to 100 %, the selected share in it, the figure above, the name below."""
        wide = min(0.72 * step, 2.8 * self.unit)
        top = floor - bar.ratio * (floor - ceiling)
        self.pen.rectangle((x, ceiling, x + wide, floor), fill="#eef1f5")
        self.pen.rectangle((x, min(top, floor - 1), x + wide, floor), fill=BAR)
        if bar.label_ratio is not None:
            y = floor - bar.label_ratio * (floor - ceiling)
            self.pen.line((x - 2, y, x + wide + 2, y), fill=BAR_LABEL, width=max(2, self.unit // 8))
        size = 0.85 if step >= 2.4 * self.unit else 0.35 * step / self.unit
        self.text(x + wide / 2, ceiling - 0.25 * self.unit, percent(bar.ratio), size=size, anchor="mb")
        self.text(x + wide / 2, floor + 0.4 * self.unit, bar.name, size=size, fill=SOFT, anchor="ma")

    def colour_scale(self, scale: Scale, left: float, top: float, right: float) -> None:
        wide, tall = round(right - left), round(1.1 * self.unit)
        levels = np.floor(np.linspace(0, scale.steps + 1, wide, endpoint=False)) / max(1, scale.steps)
        strip = np.repeat(colours(levels[None].astype(np.float32), scale.colormap), tall, axis=0)
        self.text(left, top, scale.title, size=0.85, fill=SOFT)
        y = round(top + 2.9 * self.unit)
        self.picture.paste(Image.fromarray(strip), (round(left), y))
        self.text(left, y + 1.5 * self.unit, scale.low, size=0.85)
        self.text(right, y + 1.5 * self.unit, scale.high, size=0.85, anchor="ra")


def percent(ratio: float) -> str:
    """A share as it is printed: `"31%"`, with one decimal below ten: `"4.2%"`."""
    return f"{100 * ratio:.1f}%" if 0 < ratio < 0.0995 else f"{100 * ratio:.0f}%"
