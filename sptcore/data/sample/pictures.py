"""Pictures of the sample set as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Lossless: (H, W, 3) RGB or (H, W, 4)."""
    Image.fromarray(pixels).save(path, compress_level=6)


def write_jpeg(path: Path, pixels: np.ndarray, *, grey: bool = False) -> None:
    """JPEG in high quality without colour subsampling, as the sets that hold JPEG expect it."""
    image = Image.fromarray(pixels)
    if grey:
        image.convert("L").save(path, format="JPEG", quality=95)
    else:
        image.save(path, format="JPEG", quality=95, subsampling=0)


def write_palette(path: Path, values: np.ndarray) -> None:
    """A palette PNG with VOC's colours, (H, W) uint8."""
    image = Image.fromarray(values, mode="P")
    image.putpalette([_voc_colour(number)[channel] for number in range(256) for channel in range(3)])
    image.save(path, compress_level=6)


def _voc_colour(number: int) -> tuple[int, int, int]:
    """The colour of a number in VOC's palette: its bits dealt out to the channels (devkit, VOClabelcolormap)."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (number & 1) << shift
        green |= (number >> 1 & 1) << shift
        blue |= (number >> 2 & 1) << shift
        number >>= 3
    return red, green, blue
