"""What is known of a data set as a whole, and its histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from sptcore.data.stats.blocks import Complaint

By = Literal["ratio", "size", "class", "count"]
MEASURES: tuple[By, ...] = ("ratio", "size", "class", "count")
SIDES = (0, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # pixels; COCO parts small, medium, large at 32 and 96
TITLES = {
    "ratio": "images by object-pixel ratio",
    "size": "objects by the side of their box in pixels",
    "class": "objects by class",
    "count": "images by number of objects",
}


@dataclass(frozen=True)
class SplitSummary:
    """One split in figures; `mean_ratio` is over its images."""

    split: str
    images: int
    empty: int
    objects: int
    mean_ratio: float
    under: dict[str, int]


@dataclass(frozen=True)
class Histogram:
    """Counts by label; `low` and `high` are the edges of a bin where it has any."""

    by: By
    labels: tuple[str, ...]
    edges: tuple[tuple[float, float] | None, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SetStats:
    """All figures of a data set, its splits together. `objects` (images,) counts them, `sides` (objects,) is in pixels.

    `ratio_pairs` are the exact ratios: object pixels, image pixels. `class_objects` and `class_images` count by class
    name, classes without objects included. `problems` are by kind, `noticed` counts what was used but is worth knowing.
    """

    name: str
    format: str
    root: str
    splits: tuple[SplitSummary, ...]
    ratio_pairs: tuple[tuple[int, int], ...]
    objects: np.ndarray
    sides: np.ndarray
    class_objects: dict[str, int]
    class_images: dict[str, int]
    problems: dict[str, tuple[Complaint, ...]]
    noticed: dict[str, int]
    notes: tuple[str, ...]

    @property
    def ratios(self) -> np.ndarray:
        """Object-pixel ratio of every image, float64."""
        return np.array([pixels / total for pixels, total in self.ratio_pairs], np.float64)

    def as_document(self) -> dict[str, Any]:
        """The figures in JSON types; of each kind of problem the first few."""
        return {
            "name": self.name,
            "format": self.format,
            "root": self.root,
            "splits": list(self.splits),
            "images": len(self.ratio_pairs),
            "objects": int(self.objects.sum()),
            "ratio_percentiles": _percentiles(self.ratios),
            "side_percentiles": _percentiles(self.sides),
            "sizes": coco_sizes(self.sides),
            "class_objects": self.class_objects,
            "class_images": self.class_images,
            "problems": {
                kind: {"count": len(found), "first": [{"what": one.what, "detail": one.detail} for one in found[:10]]}
                for kind, found in self.problems.items()
            },
            "noticed": self.noticed,
            "notes": list(self.notes),
        }


def coco_sizes(sides: np.ndarray) -> dict[str, int]:
    """Objects that are small, medium and large in COCO's words, by the area of their boxes."""
    small, medium = int((sides < 32).sum()), int(((sides >= 32) & (sides < 96)).sum())
    return {"small": small, "medium": medium, "large": len(sides) - small - medium}


def _percentiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    marks = (0, 10, 25, 50, 75, 90, 100)
    return {str(mark): float(value) for mark, value in zip(marks, np.percentile(values, marks), strict=True)}


def histograms(by: By, bins: int, sets: Sequence[SetStats]) -> list[Histogram]:
    """The histogram of each set over the same bins. `bins` parts the ratios and the counts; sizes go by doublings."""
    if by == "ratio":
        return [_by_ratio(one, bins) for one in sets]
    if by == "size":
        return [_by_size(one) for one in sets]
    if by == "class":
        return _by_class(sets)
    most = max((int(one.objects.max(initial=0)) for one in sets), default=0)
    return [_by_count(one, max(1, -(-(most + 1) // bins)), most) for one in sets]


def _by_ratio(stats: SetStats, bins: int) -> Histogram:
    found = Counter(min(bins * pixels // total, bins - 1) for pixels, total in stats.ratio_pairs)
    edges = tuple((number / bins, (number + 1) / bins) for number in range(bins))
    labels = tuple(f"{low:.4g} to {high:.4g}" for low, high in edges)
    return Histogram("ratio", labels, edges, tuple(found[number] for number in range(bins)))


def _by_size(stats: SetStats) -> Histogram:
    upper = [*SIDES[1:], np.inf]
    counts, _ = np.histogram(stats.sides, [*SIDES, np.inf])
    labels = tuple(f"{low} to {high}" for low, high in pairwise(SIDES))
    edges = tuple((float(low), float(high)) for low, high in zip(SIDES, upper, strict=True))
    return Histogram("size", (*labels, f"{SIDES[-1]} and more"), edges, tuple(int(count) for count in counts))


def _by_class(sets: Sequence[SetStats]) -> list[Histogram]:
    """Classes in the order of their objects in the first set, those of the other sets after them."""
    totals = {name: number for one in reversed(sets) for name, number in one.class_objects.items()}
    order = sorted(totals, key=lambda name: (-sets[0].class_objects.get(name, 0), -totals[name], name))
    nothing = (None,) * len(order)
    return [
        Histogram("class", tuple(order), nothing, tuple(one.class_objects.get(name, 0) for name in order))
        for one in sets
    ]


def _by_count(stats: SetStats, step: int, most: int) -> Histogram:
    found = Counter((stats.objects // step).tolist())
    edges = tuple((float(low), float(low + step - 1)) for low in range(0, most + 1, step))
    labels = tuple(f"{low:.0f}" if step == 1 else f"{low:.0f} to {high:.0f}" for low, high in edges)
    return Histogram("count", labels, edges, tuple(found[number] for number in range(len(edges))))
