"""Labels under augmentation: look every cell up in the mask at its own resolution, where the transform came from.

Transforming a stored grid misses 2 to 17 % of the cells. Here each cell of the output is carried back to its rectangle
on the untouched mask, with exact fractions, and is 1 iff that rectangle's interior meets an object pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from sptcore.labels.pyramid import DEFAULT_STRIDES, checked_strides, pool_to

Number = int | float | Fraction


@dataclass(frozen=True)
class Affine:
    """An exact map of pixel coordinates, axis by axis: x' = scale_x * x + shift_x, y' = scale_y * y + shift_y.

    Coordinates are continuous: pixel p covers [p, p + 1), a flip has a negative scale. Numbers become exact fractions
    (a float the fraction it stores). Raises ValueError for a scale of 0 and for values that are not finite.
    """

    scale_x: Fraction = Fraction(1)
    shift_x: Fraction = Fraction(0)
    scale_y: Fraction = Fraction(1)
    shift_y: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        for name in ("scale_x", "shift_x", "scale_y", "shift_y"):
            try:
                object.__setattr__(self, name, Fraction(getattr(self, name)))
            except OverflowError as error:  # an infinity; a NaN is a ValueError already
                raise ValueError(f"{name} must be finite") from error
        if not (self.scale_x and self.scale_y):
            raise ValueError("a scale of 0 has no inverse")

    @classmethod
    def resize(cls, size: tuple[int, int], new_size: tuple[int, int]) -> Affine:
        """From an image of `size` (W, H) to one of `new_size` (W, H), edges on edges."""
        return cls(scale_x=Fraction(new_size[0], size[0]), scale_y=Fraction(new_size[1], size[1]))

    @classmethod
    def translate(cls, x: Number, y: Number) -> Affine:
        """Content moves by (x, y) pixels: a pad of x columns on the left, or for negative values a crop."""
        return cls(shift_x=Fraction(x), shift_y=Fraction(y))

    @classmethod
    def flip_horizontal(cls, width: int) -> Affine:
        """Left and right change places in an image `width` pixels wide."""
        return cls(scale_x=Fraction(-1), shift_x=Fraction(width))

    @classmethod
    def flip_vertical(cls, height: int) -> Affine:
        """Top and bottom change places in an image `height` pixels high."""
        return cls(scale_y=Fraction(-1), shift_y=Fraction(height))

    def then(self, other: Affine) -> Affine:
        """This map first, `other` on its result."""
        return Affine(
            other.scale_x * self.scale_x,
            other.scale_x * self.shift_x + other.shift_x,
            other.scale_y * self.scale_y,
            other.scale_y * self.shift_y + other.shift_y,
        )

    def inverse(self) -> Affine:
        """The map back: `self.then(self.inverse())` is the identity, exactly."""
        return Affine(1 / self.scale_x, -self.shift_x / self.scale_x, 1 / self.scale_y, -self.shift_y / self.scale_y)

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return self == Affine()

    def boxes(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) carried over, corners in order again, not clipped: float64 (N, 4)."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        x = boxes[:, 0::2] * float(self.scale_x) + float(self.shift_x)
        y = boxes[:, 1::2] * float(self.scale_y) + float(self.shift_y)
        x.sort(axis=1)
        y.sort(axis=1)
        return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """The summed-area table of an object mask: `sums[y, x]` (int32 (H+1, W+1)) object pixels lie above y, left of x."""

    sums: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> ObjectTable:
        """From a mask (H, W), object pixels being those that are not 0. Raises ValueError where it has no pixels."""
        if mask.ndim != 2 or 0 in mask.shape:
            raise ValueError(f"a mask must have two dimensions and at least one pixel, got shape {mask.shape}")
        return cls(cv2.integral((mask != 0).view(np.uint8)))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the mask in pixels."""
        return self.sums.shape[1] - 1, self.sums.shape[0] - 1


def labels_for(
    mask: np.ndarray | ObjectTable,
    affine: Affine,
    out_size: tuple[int, int],
    strides: Iterable[int] = DEFAULT_STRIDES,
) -> dict[int, np.ndarray]:
    """Label grids of the transformed image: bool (ceil(H' / k), ceil(W' / k)) per stride k, `out_size` = (W', H').

    `mask` (H, W) is the object mask of the untouched image, or its ObjectTable where several views of it are taken;
    `affine` maps its pixels to the output. A cell, cut to the output, is 1 iff the interior of its pre-image meets an
    object pixel; with the identity these are the stored levels. Exact: no float takes part. Raises ValueError for an
    empty output.
    """
    if min(out_size) < 1:
        raise ValueError(f"the output must have at least one pixel, got {out_size[0]} x {out_size[1]}")
    wanted = checked_strides(strides)
    table = mask if isinstance(mask, ObjectTable) else ObjectTable.of(mask)
    (width, height), finest = table.size, wanted[0]
    left, right = _pre_image(affine.scale_x, affine.shift_x, out_size[0], finest, width)
    top, bottom = _pre_image(affine.scale_y, affine.shift_y, out_size[1], finest, height)
    above, below = table.sums[top], table.sums[bottom]  # (rows, W + 1)
    strip = below - above  # object pixels of a row of cells, left of x
    return pool_to(strip[:, right] > strip[:, left], finest, wanted)


def _pre_image(
    scale: Fraction, shift: Fraction, out_length: int, stride: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """First pixel and one past the last of each cell's pre-image along an axis, clipped to [0, length].

    x = (x' - shift) / scale with x' the cell's edges; a pixel counts as soon as it overlaps by more than nothing.
    """
    edges = [*range(0, out_length, stride), out_length]
    factor, offset = 1 / scale, -shift / scale
    common = factor.denominator * offset.denominator
    slope, start = factor.numerator * offset.denominator, offset.numerator * factor.denominator
    numerators = [slope * edge + start for edge in edges]
    floors = np.array([min(max(n // common, 0), length) for n in numerators])
    ceils = np.array([min(max(-(-n // common), 0), length) for n in numerators])
    low, high = (floors[:-1], ceils[1:]) if scale > 0 else (floors[1:], ceils[:-1])
    return low, np.maximum(high, low)
