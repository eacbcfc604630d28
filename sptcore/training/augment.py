"""The random geometry of training images: flip, crop in whole native pixels, resize, drawn once for all they carry."""

from __future__ import annotations

import math

import numpy as np

from sptcore.data.padding import NO_PADDING
from sptcore.labels.geometry import Crop, Geometry, bare_size, fit
from sptcore.training.config import TrainConfig

_TRIES = 10  # of a crop that has to fit into the image, as in torchvision


def draw_geometry(
    config: TrainConfig,
    width: int,
    height: int,
    generator: np.random.Generator,
    padding: tuple[int, int] = NO_PADDING,
) -> Geometry:
    """Flip, crop and size of one training image: mmdetection's multi-scale crop, or with `resized_crop` torchvision's
    RandomResizedCrop in whole native pixels.

    On a canvas (`padding` of columns, rows; width and height are the canvas's) the image is altered alone and put on a
    canvas that is fitted into `res`.
    """
    if padding != NO_PADDING:
        return _draw_on_canvas(config, width, height, generator, padding)
    if config.resized_crop is not None:
        return _draw_resized(config, (width, height), _oriented(config, width, height), generator)
    flip, cropped = (generator.random(2) < (config.flip_prob, config.crop_prob)).tolist()
    crop = _draw_crop(config, width, height, generator) if cropped else (0, 0, width, height)
    scale = float(generator.choice(config.scales))
    long_side, short_side = max(1.0, scale) * max(config.res), scale * min(config.res)
    out = fit(crop[2] - crop[0], crop[3] - crop[1], long_side=long_side, short_side=short_side)
    return Geometry((width, height), flip, crop, out)


def _draw_on_canvas(
    config: TrainConfig, width: int, height: int, generator: np.random.Generator, padding: tuple[int, int]
) -> Geometry:
    canvas = fit(width, height, long_side=max(config.res), short_side=min(config.res))
    native, out = bare_size(width, height, padding), bare_size(*canvas, padding)
    flip = bool(generator.random() < config.flip_prob)
    crop = (0, 0, *native)
    if config.resized_crop is not None:
        crop = _draw_share(config, native, generator)
    return Geometry(native, flip, crop, out, canvas)


def _draw_resized(
    config: TrainConfig, native: tuple[int, int], out: tuple[int, int], generator: np.random.Generator
) -> Geometry:
    flip = bool(generator.random() < config.flip_prob)
    return Geometry(native, flip, _draw_share(config, native, generator), out)


def _oriented(config: TrainConfig, width: int, height: int) -> tuple[int, int]:
    """`res` in the orientation of an image of this width and height."""
    return (max(config.res), min(config.res)) if width >= height else (min(config.res), max(config.res))


def _draw_share(config: TrainConfig, native: tuple[int, int], generator: np.random.Generator) -> Crop:
    """A rectangle of native pixels whose area and aspect ratio are drawn; the whole image where none fits."""
    assert config.resized_crop is not None
    width, height = native
    low, high = (math.log(ratio) for ratio in config.resized_crop_ratio)
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*config.resized_crop)
        ratio = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(generator.integers(0, width - w + 1)), int(generator.integers(0, height - h + 1))
            return x, y, x + w, y + h
    return 0, 0, width, height


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
