"""The random geometry of training images: flip, crop in whole native pixels, resize, drawn once for all they carry."""

from __future__ import annotations

import numpy as np

from sptcore.labels.geometry import Geometry, fit
from sptcore.training.config import TrainConfig


def draw_geometry(config: TrainConfig, width: int, height: int, generator: np.random.Generator) -> Geometry:
    """Flip, crop and size of one training image (mmdetection's multi-scale crop recipe)."""
    flip, cropped = (generator.random(2) < (config.flip_prob, config.crop_prob)).tolist()
    crop = _draw_crop(config, width, height, generator) if cropped else (0, 0, width, height)
    scale = float(generator.choice(config.scales))
    long_side, short_side = max(1.0, scale) * max(config.res), scale * min(config.res)
    out = fit(crop[2] - crop[0], crop[3] - crop[1], long_side=long_side, short_side=short_side)
    return Geometry((width, height), flip, crop, out)


def _draw_crop(
    config: TrainConfig, width: int, height: int, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """A rectangle of native pixels, drawn at the size the recipe crops at and rounded outward to whole pixels."""
    short = min(config.res)
    scale = float(generator.choice(config.crop_scales))
    seen = fit(width, height, long_side=max(config.res), short_side=scale * short)
    low, high = (max(1, round(factor * short)) for factor in config.crop_range)
    span = []
    for side, native in zip(seen, (width, height), strict=True):
        size = int(generator.integers(min(side, low), min(side, high) + 1))
        first = int(generator.integers(0, side - size + 1))
        span.append((first * native // side, -(-(first + size) * native // side)))
    return span[0][0], span[1][0], span[0][1], span[1][1]
