"""A subset of a COCO file as slices of its bytes: ids, order, unknown fields and the spelling of numbers survive."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from sptcore.data.coco.layout import relative_annotation
from sptcore.data.coco.scan import Scan
from sptcore.data.json_text import BOM, chosen_slices
from sptcore.data.records import DatasetIndex, Dropped


def write_entries(
    scan: Scan, index: DatasetIndex, keep: Collection[int], dropped: Collection[Dropped], out: Path
) -> list[Path]:
    """Write the kept images, their sound annotations and every other key of the file below `out`.

    Raises IntegrityError when the source is no longer what was scanned. With nothing left out the file equals its
    source, a byte order mark excepted.
    """
    scan.source.check_unchanged()
    kept_images = np.fromiter((image.id in keep for image in scan.images), bool, len(scan.images))
    kept = np.zeros(len(scan.owner), bool)
    owned = scan.owner >= 0
    kept[owned] = kept_images[scan.owner[owned]]
    kept[[fault.entry for fault in dropped if fault.entry >= 0]] = False
    parts = sorted([(scan.image_spans, kept_images), (scan.annotation_spans, kept)], key=lambda part: part[0].first)
    target = out / relative_annotation(index)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        position = len(BOM) if scan.source.data.startswith(BOM) else 0
        for spans, chosen in parts:
            stream.write(memoryview(scan.source.data)[position : spans.first])
            for piece in chosen_slices(scan.source.data, spans, chosen):
                stream.write(piece)
            position = spans.last
        stream.write(memoryview(scan.source.data)[position:])
    scan.source.check_unchanged()
    return [target]
