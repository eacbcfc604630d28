"""The frame of the network: how an image, its boxes, masks and selection labels get there, all by one exact map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sptcore.labels.transform import Affine

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

    def padded(self, image: np.ndarray, divisor: int = 32) -> np.ndarray:
        """Pixels as a network takes them: (3, H', W') uint8, zeros to the right and below up to whole divisors."""
        width, height = (-(-side // divisor) * divisor for side in self.out)
        result = np.zeros((3, height, width), np.uint8)
        result[:, : self.out[1], : self.out[0]] = self.image(image).transpose(2, 0, 1)
        return result

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
