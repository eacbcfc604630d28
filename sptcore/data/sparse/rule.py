"""Which images a sparse set keeps, and what is said about each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec

from sptcore.data.rasterize import DEFAULT_RULE, PixelRule, is_below
from sptcore.data.records import Category
from sptcore.data.sparse.measure import ImageMeasure
from sptcore.errors import UsageError, did_you_mean

KEPT = "kept"
TOO_DENSE = "ratio"
TOO_SPARSE = "below minimum"
EMPTY = "no objects"
CROWDED = "crowd"
UNMASKED = "no masks"
OVER_LIMIT = "limit"
REASONS = (KEPT, TOO_DENSE, TOO_SPARSE, EMPTY, CROWDED, UNMASKED, OVER_LIMIT)


@dataclass(frozen=True)
class SparseRule:
    """Keep an image when min_ratio <= object pixels / image pixels < max_ratio, decided in integers.

    `pixels` says what an object pixel is; `classes` are the names that count (all when empty); `drop_empty` leaves out
    images without objects; `limit` keeps the first so many of each split. Without `max_ratio` no image is too dense.
    """

    max_ratio: Fraction | None
    min_ratio: Fraction = Fraction(0)
    pixels: PixelRule = DEFAULT_RULE
    classes: tuple[str, ...] = ()
    drop_empty: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for thresholds that keep nothing or make no sense."""
        if self.max_ratio is not None and not 0 < self.max_ratio <= 1:
            raise UsageError(f"a maximum ratio of {_text(self.max_ratio)} is not in 0..1", hint="such as 0.2")
        if not 0 <= self.min_ratio < 1:
            raise UsageError(f"a minimum ratio of {_text(self.min_ratio)} is not in 0..1")
        if self.max_ratio is not None and self.min_ratio >= self.max_ratio:
            raise UsageError(f"the minimum ratio {_text(self.min_ratio)} leaves nothing below {_text(self.max_ratio)}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"a limit of {self.limit} images keeps nothing")

    def pixel_rule(self, categories: Sequence[Category]) -> PixelRule:
        """`pixels` with the ids of `classes`. Raises UsageError for a name the set does not have."""
        if not self.classes:
            return self.pixels
        ids = {category.name: category.category_id for category in categories}
        for name in self.classes:
            if name not in ids:
                hint = did_you_mean(name, ids) or f"the classes are: {', '.join(list(ids)[:20])}"
                raise UsageError(f"no class {name!r} in this set", hint=hint)
        return msgspec.structs.replace(self.pixels, classes=frozenset(ids[name] for name in self.classes))

    def verdict(self, image: ImageMeasure, max_ratio: Fraction | None = None) -> str:
        """Why an image is kept or left out, one of REASONS, the limit aside; `max_ratio` instead of the rule's own."""
        limit = self.max_ratio if max_ratio is None else max_ratio
        pixels, total = image.object_pixels, image.width * image.height
        if image.has_crowd and self.pixels.crowd == "drop-image":
            return CROWDED
        if image.unmasked:
            return UNMASKED
        if not image.n_objects and self.drop_empty:
            return EMPTY
        if limit is not None and not is_below(pixels, total, limit):
            return TOO_DENSE
        return TOO_SPARSE if is_below(pixels, total, self.min_ratio) else KEPT

    def as_document(self) -> dict[str, Any]:
        """The rule in JSON types, for the manifest and for fingerprints."""
        return {
            "max_ratio": None if self.max_ratio is None else _text(self.max_ratio),
            "min_ratio": _text(self.min_ratio),
            "comparison": "min_ratio <= object pixels / (width * height) < max_ratio, in integers",
            "ratio_from": self.pixels.ratio_from,
            "overlap": self.pixels.overlap,
            "crowd": self.pixels.crowd,
            "difficult": self.pixels.difficult,
            "void": self.pixels.void,
            "classes": list(self.classes),
            "drop_empty": self.drop_empty,
            "limit": self.limit,
        }


def percent(ratio: Fraction) -> str:
    """`20` of 1/5, `12.5` of 1/8: the number in the name of a set."""
    return f"{float(100 * ratio):.6g}"


def _text(ratio: Fraction) -> str:
    """A ratio as a decimal where it is a short one, else as a fraction."""
    for digits in range(10):
        scaled = ratio * 10**digits
        if scaled.denominator == 1:
            return str(math.floor(ratio)) if digits == 0 else f"{float(ratio):.{digits}f}"
    return str(ratio)
