"""The job stats: how sparse a data set is, how large and how many its objects are, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from sptcore.data import formats
from sptcore.data.format import Source
from sptcore.data.locate import splits_of
from sptcore.data.rasterize import DEFAULT_RULE, PixelRule, is_below
from sptcore.data.records import DatasetIndex
from sptcore.data.sparse.measure import BLOCK, OpenSplit, first_image
from sptcore.data.stats.blocks import BlockFigures, Complaint, Gauge
from sptcore.data.stats.export import write_csv, write_html
from sptcore.data.stats.figures import MEASURES, TITLES, By, Histogram, SetStats, SplitSummary, coco_sizes, histograms
from sptcore.data.workers import map_in_order
from sptcore.errors import DataError
from sptcore.progress import SILENT, Progress

__all__ = [
    "MEASURES",
    "TITLES",
    "By",
    "Histogram",
    "SetStats",
    "coco_sizes",
    "histograms",
    "set_stats",
    "write_csv",
    "write_html",
]
LANDMARKS = ("0.15", "0.20", "0.25")
NO_IMAGES = "image folder missing"


def set_stats(
    source: Source,
    *,
    splits: Sequence[str] | None = None,
    rule: PixelRule = DEFAULT_RULE,
    jobs: int = 1,
    progress: Progress = SILENT,
) -> SetStats:
    """All figures of a data set. Images are opened for their headers only; a whole folder missing is one problem.

    Raises DataError for a fault of an annotation file or a split that is not there, ResourceError for a dead worker.
    """
    there = splits_of(source)
    totals = _Totals(source)
    for split in splits if splits is not None else there:
        if split not in there and source.annotation is None:
            raise DataError(f"no split {split!r} (found: {', '.join(there)})", where=str(source.root))
        opened = OpenSplit(source, formats()[source.format], split)
        root = opened.header.image_root if opened.header.image_root.is_dir() else None
        gauge = Gauge(rule, root, source.padding, source.options.follow_symlinks)
        totals.add(opened.header, _measured(opened, gauge, jobs, progress))
        if root is None and opened.n_images:
            totals.complain(Complaint(NO_IMAGES, str(opened.header.image_root), f"{opened.n_images} images of {split}"))
    return totals.finished()


def _measured(opened: OpenSplit, gauge: Gauge, jobs: int, progress: Progress) -> list[BlockFigures]:
    parts = []
    jobs = min(jobs, -(-opened.n_images // BLOCK))
    progress.start(f"measuring {opened.split}", opened.n_images)
    try:
        for part in map_in_order(gauge, opened.blocks(), jobs=jobs, describe=first_image):
            progress.advance(len(part.ratios))
            parts.append(part)
    finally:
        progress.finish()
    return parts


class _Totals:
    """Sums over the splits of a set."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._splits: list[SplitSummary] = []
        self._parts: list[BlockFigures] = []
        self._objects: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._problems: dict[str, list[Complaint]] = {}
        self._noticed: Counter[str] = Counter()
        self._notes: list[str] = []

    def add(self, header: DatasetIndex, parts: list[BlockFigures]) -> None:
        """Take in a split."""
        names = {category.category_id: category.name for category in header.categories}
        for name in names.values():
            self._objects[name] += 0
            self._images[name] += 0
        for fault in header.dropped:
            self.complain(Complaint(fault.cause, fault.where, fault.detail))
        self._noticed.update(header.counts)
        self._notes += [f"{header.split}: {note}" for note in header.notes]
        for part in parts:
            for number, count in part.class_objects.items():
                self._objects[names[number]] += count
            for number, count in part.class_images.items():
                self._images[names[number]] += count
            self._noticed.update(part.counts)
            for complaint in part.complaints:
                self.complain(complaint)
        self._parts += parts
        self._splits.append(_summary(header.split, parts))

    def complain(self, complaint: Complaint) -> None:
        """Note one problem."""
        self._problems.setdefault(complaint.kind, []).append(complaint)

    def finished(self) -> SetStats:
        """The figures of the whole set."""
        return SetStats(
            name=self._source.name,
            format=self._source.format,
            root=str(self._source.root),
            splits=tuple(self._splits),
            ratio_pairs=tuple(pair for part in self._parts for pair in part.ratios),
            objects=np.array([count for part in self._parts for count in part.objects], np.int64),
            sides=np.array([side for part in self._parts for side in part.sides], np.float64),
            class_objects=dict(self._objects),
            class_images=dict(self._images),
            problems={kind: tuple(found) for kind, found in self._problems.items()},
            noticed=dict(self._noticed),
            notes=tuple(self._notes),
        )


def _summary(split: str, parts: list[BlockFigures]) -> SplitSummary:
    pairs = [pair for part in parts for pair in part.ratios]
    objects = [count for part in parts for count in part.objects]
    return SplitSummary(
        split=split,
        images=len(pairs),
        empty=objects.count(0),
        objects=sum(objects),
        mean_ratio=sum(pixels / total for pixels, total in pairs) / max(len(pairs), 1),
        under={mark: sum(is_below(*pair, Fraction(mark)) for pair in pairs) for mark in LANDMARKS},
    )
