"""Geometry of an image in training and evaluation: drawn once, applied to pixels, boxes, masks and selection labels.

All of them see the same map from native pixels to the frame of the network: flip, crop in whole native pixels, resize.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sptcore.labels.transform import Affine
from sptcore.training.config import TrainConfig

Crop = tuple[int, int, int, int]


@dataclass(frozen=True)
class Geometry:
    """How a native image (width, height) becomes the network's: `flip`, `crop` (x1, y1, x2, y2), resize to `out`.

    `crop` is in pixels of the flipped image, `out` is (width, height).
    """

    native: tuple[int, int]
    flip: bool
    crop: Crop
    out: tuple[int, int]

    @property
    def affine(self) -> Affine:
        """The exact map of native pixel edges to the new frame."""
        x1, y1, x2, y2 = self.crop
        first = Affine.flip_horizontal(self.native[0]) if self.flip else Affine()
        return first.then(Affine.translate(-x1, -y1)).then(Affine.resize((x2 - x1, y2 - y1), self.out))

    def image(self, image: np.ndarray) -> np.ndarray:
        """Pixels (H, W, 3) uint8 in the new frame, bilinear as in mmdetection."""
        return self._warp(image, cv2.INTER_LINEAR)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """An instance mask (H, W) uint8 in the new frame, nearest pixel."""
        return self._warp(mask, cv2.INTER_NEAREST_EXACT)

    def _warp(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        x1, y1, x2, y2 = self.crop
        if self.flip:
            width = self.native[0]
            array = array[:, width - x2 : width - x1][:, ::-1]
        else:
            array = array[:, x1:x2]
        array = np.ascontiguousarray(array[y1:y2])
        if (array.shape[1], array.shape[0]) == self.out:
            return array
        return cv2.resize(array, self.out, interpolation=interpolation)

    def boxes(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) in the new frame, clipped to it; one that lies outside has no width or no height."""
        return np.clip(self.affine.boxes(boxes_xyxy), 0, np.array(self.out * 2))


def fit(width: int, height: int, *, long_side: float, short_side: float) -> tuple[int, int]:
    """The size (width, height) of an image resized, aspect kept, to fit into long x short in either orientation."""
    scale = min(long_side / max(width, height), short_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def whole_image(width: int, height: int, resolution: Sequence[int]) -> Geometry:
    """The whole image, not flipped, fitted into `resolution` (in either orientation)."""
    out = fit(width, height, long_side=max(resolution), short_side=min(resolution))
    return Geometry((width, height), False, (0, 0, width, height), out)


def draw_geometry(config: TrainConfig, width: int, height: int, generator: np.random.Generator) -> Geometry:
    """Flip, crop and size of one training image (mmdetection's multi-scale crop recipe, ALGORITHM.md 6.1)."""
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
