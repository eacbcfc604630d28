"""The frame of the network: how an image, its boxes, masks and selection labels get there, all by one exact map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sptcore.data.padding import NO_PADDING
from sptcore.labels.transform import Affine, labels_for

Crop = tuple[int, int, int, int]


@dataclass(frozen=True)
class Geometry:
    """How a native image (width, height) becomes the network's: `flip`, `crop` (x1, y1, x2, y2), resize to `out`.

    `crop` is in pixels of the flipped image, `out` is (width, height). `canvas` (width, height): the result lies in the
    upper left of a black canvas (IN-S); `native` is then the image's own size, and arrays may come on their canvas.
    """

    native: tuple[int, int]
    flip: bool
    crop: Crop
    out: tuple[int, int]
    canvas: tuple[int, int] | None = None

    @property
    def frame(self) -> tuple[int, int]:
        """Width and height of what the network sees: the canvas where there is one, else the image."""
        return self.canvas or self.out

    @property
    def changes_nothing(self) -> bool:
        """Whether the image keeps its pixels; it may still get another canvas."""
        return not self.flip and self.crop == (0, 0, *self.native) and self.out == self.native

    @property
    def affine(self) -> Affine:
        """The exact map of native pixel edges to the new frame."""
        x1, y1, x2, y2 = self.crop
        first = Affine.flip_horizontal(self.native[0]) if self.flip else Affine()
        return first.then(Affine.translate(-x1, -y1)).then(Affine.resize((x2 - x1, y2 - y1), self.out))

    def image(self, image: np.ndarray, change: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """Pixels (H, W, 3) uint8 in the new frame, bilinear as in mmdetection; `change` comes before the canvas."""
        seen = self._warp(image, cv2.INTER_LINEAR)
        return self._on_canvas(seen if change is None else change(seen))

    def labels(self, mask: np.ndarray, strides: Iterable[int]) -> dict[int, np.ndarray]:
        """Selection labels of the object mask (H, W) of the untouched image, exact, in the new frame, by stride."""
        x1, y1, x2, y2 = self.crop
        if self.canvas is None:
            return labels_for(mask, self.affine, self.out, strides)
        left, right = (self.native[0] - x2, self.native[0] - x1) if self.flip else (x1, x2)
        first = Affine.flip_horizontal(x2 - x1) if self.flip else Affine()
        affine = first.then(Affine.resize((x2 - x1, y2 - y1), self.out))
        return labels_for(np.ascontiguousarray(mask[y1:y2, left:right]), affine, self.canvas, strides)

    def padded(self, image: np.ndarray, divisor: int = 32) -> np.ndarray:
        """Pixels as a network takes them: (3, H', W') uint8, zeros to the right and below up to whole divisors."""
        width, height = (-(-side // divisor) * divisor for side in self.frame)
        result = np.zeros((3, height, width), np.uint8)
        result[:, : self.frame[1], : self.frame[0]] = self.image(image).transpose(2, 0, 1)
        return result

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """An instance mask (H, W) uint8 in the new frame, nearest pixel."""
        return self._on_canvas(self._warp(mask, cv2.INTER_NEAREST_EXACT))

    def _on_canvas(self, array: np.ndarray) -> np.ndarray:
        if self.canvas is None:
            return array
        result = np.zeros((self.canvas[1], self.canvas[0], *array.shape[2:]), array.dtype)
        result[: array.shape[0], : array.shape[1]] = array
        return result

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


def whole_image(width: int, height: int, resolution: Sequence[int], padding: tuple[int, int] = NO_PADDING) -> Geometry:
    """The whole image, not flipped, fitted into `resolution` (in either orientation).

    `padding` (columns, rows): width and height are those of a canvas, which is fitted; the image is resized alone and
    put on it, so that no pixel at its edge is mixed with black.
    """
    out = fit(width, height, long_side=max(resolution), short_side=min(resolution))
    if padding == NO_PADDING:
        return Geometry((width, height), False, (0, 0, width, height), out)
    native = bare_size(width, height, padding)
    return Geometry(native, False, (0, 0, *native), bare_size(*out, padding), out)


def bare_size(width: int, height: int, padding: tuple[int, int]) -> tuple[int, int]:
    """The size of the image in the upper left of a canvas of columns x rows of its size."""
    return max(1, width // padding[0]), max(1, height // padding[1])
