"""Results drawn on their image: tinted masks, boxes with class and score; without boxes a list of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from sptcore.tasks.base import Result
from sptcore.viz.figures import display_size, fit, typeface

PALETTE = ("#e4572e", "#2f6fde", "#2a9d5c", "#b5489b", "#c78b0a", "#0f8b8d", "#7a5cd6", "#8a5a44")
OPACITY = 0.45


def colour_of(category_id: int) -> str:
    """The colour of a class, the same in every picture."""
    return PALETTE[category_id % len(PALETTE)]


def draw_results(
    image: np.ndarray, results: Sequence[Result], names: Mapping[int, str], *, badge: str = ""
) -> Image.Image:
    """`image` (H, W, 3) uint8 RGB with its results, the surest on top; small images are enlarged to make text legible.

    Boxes and masks are in pixels of `image`, as `Task.predict` gives them. `badge`: a mark in the lower left corner.
    """
    height, width = image.shape[:2]
    shown = display_size(height, width)
    rising = sorted(results, key=lambda one: one["score"])
    canvas = fit(_tinted(image, rising), *shown)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    scale = shown[1] / width
    unit = max(11, round(max(shown) / 64))
    for one in rising:
        if "bbox" in one:
            _draw_box(
                pen, [side * scale for side in one["bbox"]], _words(one, names), colour_of(one["category_id"]), unit
            )
    _list_classes(pen, [one for one in reversed(rising) if "bbox" not in one], names, unit)
    if badge:
        pen.text(
            (0.5 * unit, shown[0] - 1.6 * unit),
            badge,
            fill="#ffffff",
            font=typeface(unit),
            stroke_width=2,
            stroke_fill="#16191d",
        )
    return picture


def _tinted(image: np.ndarray, results: Sequence[Result]) -> np.ndarray:
    """The image with the pixels of each mask tinted."""
    from pycocotools import mask as coco_mask

    painted = image.copy()
    for one in results:
        if "segmentation" in one:
            inside = coco_mask.decode(one["segmentation"]).astype(bool)
            tint = np.array([int(colour_of(one["category_id"])[first : first + 2], 16) for first in (1, 3, 5)])
            painted[inside] = np.rint((1 - OPACITY) * painted[inside] + OPACITY * tint).astype(np.uint8)
    return painted


def _words(result: Result, names: Mapping[int, str]) -> str:
    return f"{names.get(result['category_id'], result['category_id'])} {result['score']:.2f}"


def _draw_box(pen: ImageDraw.ImageDraw, box_xywh: Sequence[float], words: str, colour: str, unit: int) -> None:
    x, y, width, height = box_xywh
    pen.rectangle((x, y, x + width, y + height), outline=colour, width=max(1, unit // 6))
    font = typeface(unit)
    room = pen.textlength(words, font=font)
    top = max(0.0, y - 1.3 * unit)
    pen.rectangle((x, top, x + room + 0.6 * unit, top + 1.3 * unit), fill=colour)
    pen.text((x + 0.3 * unit, top + 0.1 * unit), words, fill="#ffffff", font=font)


def _list_classes(pen: ImageDraw.ImageDraw, results: Sequence[Result], names: Mapping[int, str], unit: int) -> None:
    """Classes of the whole image, the surest first, in the upper left corner."""
    for line, one in enumerate(results):
        words, font = _words(one, names), typeface(unit)
        top = 0.4 * unit + 1.5 * unit * line
        right = 0.9 * unit + pen.textlength(words, font=font)
        pen.rectangle((0.4 * unit, top, right, top + 1.3 * unit), fill=colour_of(one["category_id"]))
        pen.text((0.6 * unit, top + 0.1 * unit), words, fill="#ffffff", font=font)
