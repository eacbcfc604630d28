"""COCO and everything that writes its JSON (https://cocodataset.org/#format-data): read, stream, cut subsets.

Boxes are `[x, y, width, height]` in continuous pixels; category ids may start at 0 and have gaps; a segmentation may be
missing. Faults of the file stop, faults of one annotation leave it out and are counted.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sptcore.data.coco.layout import annotation_file, detect, place_of_images, splits
from sptcore.data.coco.layout import subset_image_folder as image_folder
from sptcore.data.format import Source, collect
from sptcore.data.records import DatasetIndex

__all__ = ["detect", "image_folder", "read", "splits", "stream", "write_subset"]

BLOCK = 4096


def stream(source: Source, split: str):
    """The split as a CocoStream: scanned, validated block by block. Raises DataError for a fault of the file."""
    from sptcore.data.coco.blocks import CocoStream
    from sptcore.data.coco.scan import scan

    path = annotation_file(source, split)
    scanned = scan(path, strict=source.options.strict)
    header = DatasetIndex(
        format="coco",
        split=split,
        annotation_path=path,
        image_root=place_of_images(source, split, path, [image.file_name for image in scanned.images[:32]]),
        categories=scanned.categories,
        records=(),
        dropped=scanned.dropped,
        notes=scanned.notes,
        source_sha256=scanned.source.sha256,
    )
    return CocoStream(scanned, header, strict=source.options.strict)


def read(source: Source, split: str) -> DatasetIndex:
    """All records of a split in file order. Raises DataError for a fault of the file, with `strict` for any fault."""
    return collect(stream(source, split), BLOCK)


def write_subset(index: DatasetIndex, keep: Collection[int], out: Path) -> list[Path]:
    """Write the images whose id is in `keep`, byte for byte. Raises IntegrityError when the source has changed."""
    from sptcore.data.coco.scan import scan
    from sptcore.data.coco.write import write_entries
    from sptcore.errors import IntegrityError

    scanned = scan(index.annotation_path)
    if index.source_sha256 and scanned.source.sha256 != index.source_sha256:
        raise IntegrityError("the file is not the one that was read before", where=str(index.annotation_path))
    return write_entries(scanned, index, keep, index.dropped, out)
