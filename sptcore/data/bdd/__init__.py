"""BDD100K and every other set in Scalabel's format (https://doc.scalabel.ai/format.html): read, stream, cut subsets.

Boxes state their last pixel, so x2 and y2 grow by one; polygons may hold Bezier curves. Frames have no ids: the n-th
frame of a file is image n, as the format's own converter to COCO numbers them. Lanes and drivable areas are no objects.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sptcore.data.bdd.layout import detect, image_folder, splits
from sptcore.data.format import Source, collect
from sptcore.data.records import DatasetIndex

__all__ = ["detect", "image_folder", "read", "splits", "stream", "write_subset"]

BLOCK = 4096


def stream(source: Source, split: str):
    """The split as a BddStream, None when its labels are a folder of bitmasks. Raises DataError for a faulty file."""
    from sptcore.data.bdd.scan import open_stream

    return open_stream(source, split)


def read(source: Source, split: str) -> DatasetIndex:
    """All records of a split in file order. Raises DataError for a fault of the file, with `strict` for any fault."""
    from sptcore.data.bdd.bitmasks import read_bitmasks
    from sptcore.data.bdd.layout import find_labels

    opened = stream(source, split)
    return read_bitmasks(source, split, find_labels(source, split)) if opened is None else collect(opened, BLOCK)


def write_subset(index: DatasetIndex, keep: Collection[int], out: Path) -> list[Path]:
    """Write the kept frames, or bitmasks, byte for byte. Raises IntegrityError when the source has changed."""
    from sptcore.data.bdd.bitmasks import write_bitmasks
    from sptcore.data.bdd.scan import scan, write_frames

    if index.annotation_path.is_dir():
        return write_bitmasks(index, keep, out)
    return write_frames(scan(index.annotation_path), index, keep, out)
