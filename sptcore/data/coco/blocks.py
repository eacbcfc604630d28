"""A COCO split in blocks of images, each with the text of its annotations: what a worker reads and validates.

A block carries its bytes with it, so that a worker sees what the scan saw, on this machine or another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Raw

from sptcore.data.coco.checks import Report, check_annotation
from sptcore.data.coco.scan import Scan
from sptcore.data.coco.schema import Annotation, ImageEntry, LooseAnnotation
from sptcore.data.coco.write import write_entries
from sptcore.data.format import Loaded
from sptcore.data.records import DatasetIndex, Dropped, ImageRecord, Instance

_ALL = msgspec.json.Decoder(list[Annotation])
_ONE = msgspec.json.Decoder(Annotation)
_LOOSE = msgspec.json.Decoder(LooseAnnotation)


@dataclass(frozen=True)
class CocoBlock:
    """Images with their annotations: `text` is a JSON array of them, image after image, `sizes` entries an image.

    `positions` are the entries' places in the file.
    """

    path: Path
    images: tuple[ImageEntry, ...]
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    text: bytes
    strict: bool

    def load(self) -> Loaded:
        """Validate the annotations. Raises DataError with `strict` only."""
        report = Report(self.path, self.strict)
        entries = _decode(self.text)
        records = []
        for image, (low, high) in zip(self.images, pairwise(accumulate(self.sizes, initial=0)), strict=True):
            instances = _instances(image, entries[low:high], self.positions[low:high], report)
            records.append(ImageRecord(image.id, image.file_name, image.width, image.height, instances))
        return Loaded(tuple(records), tuple(report.dropped), dict(report.counts))


def _instances(
    image: ImageEntry, entries: Sequence[Annotation | LooseAnnotation], positions: Sequence[int], report: Report
) -> tuple[Instance, ...]:
    checked = (check_annotation(entry, image, at, report) for entry, at in zip(entries, positions, strict=True))
    return tuple(instance for instance in checked if instance is not None)


def _decode(text: bytes) -> Sequence[Annotation | LooseAnnotation]:
    """All entries at once where they are sound; one by one where a single one is not."""
    try:
        return _ALL.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return [_decode_one(raw) for raw in msgspec.json.decode(text, type=list[Raw])]


def _decode_one(raw: Raw) -> Annotation | LooseAnnotation:
    try:
        return _ONE.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return _LOOSE.decode(raw)


class CocoStream:
    """A scanned split, handed out in blocks (`sptcore.data.format.RecordStream`)."""

    def __init__(self, scan: Scan, header: DatasetIndex, *, strict: bool) -> None:
        self.header = header
        self.n_images = len(scan.images)
        self._scan = scan
        self._strict = strict

    def blocks(self, size: int) -> Iterator[CocoBlock]:
        """The images in file order, `size` a block, every image with its annotations in file order."""
        scan = self._scan
        data, spans = memoryview(scan.source.data), scan.annotation_spans
        order = np.argsort(scan.owner, kind="stable")
        edges = np.searchsorted(scan.owner[order], np.arange(self.n_images + 1))
        for low in range(0, self.n_images, size):
            high = min(low + size, self.n_images)
            chosen = order[edges[low] : edges[high]]
            places = zip(spans.starts[chosen].tolist(), spans.ends[chosen].tolist(), strict=True)
            yield CocoBlock(
                path=scan.source.path,
                images=tuple(scan.images[low:high]),
                sizes=tuple(np.diff(edges[low : high + 1]).tolist()),
                positions=tuple(chosen.tolist()),
                text=b"[" + b",".join([data[start:end] for start, end in places]) + b"]",
                strict=self._strict,
            )

    def write_subset(self, keep: Collection[int], out: Path, dropped: Collection[Dropped] = ()) -> list[Path]:
        """Write the images in `keep` and their annotations except those in `dropped`."""
        return write_entries(self._scan, self.header, keep, dropped, out)
