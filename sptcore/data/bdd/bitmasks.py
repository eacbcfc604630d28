"""Instance segmentation as RGBA pictures: R the class, G attribute bits, B * 256 + A the number of the instance.

Source: https://doc.bdd100k.com/format.html#bitmask (G: 8 truncated, 4 occluded, 2 crowd, 1 ignored).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from sptcore.data.bdd.categories import SEGMENTATION, Classes
from sptcore.data.bdd.layout import Labels, find_images, subset_path
from sptcore.data.format import Source
from sptcore.data.images import find_image, read_regular_file
from sptcore.data.ledger import Ledger
from sptcore.data.records import DatasetIndex, ImageRecord, Instance, MaskFile
from sptcore.data.source_file import Mark, check_marks
from sptcore.errors import DataError

CROWD_BITS = 2 | 1


def read_bitmasks(source: Source, split: str, labels: Labels) -> DatasetIndex:
    """One record a PNG of the folder, in the order of their names. Raises DataError for a picture of another kind."""
    names = sorted(name for name in os.listdir(labels.path) if name.lower().endswith(".png"))
    stems = [os.path.splitext(name)[0] for name in names]
    image_root = find_images(source, split, labels, [f"{stem}.jpg" for stem in stems])
    classes, digest = Classes.official(SEGMENTATION), hashlib.sha256()
    ledger = Ledger(str(labels.path), source.options.strict)
    records: list[ImageRecord] = []
    marks: dict[str, Mark] = {}
    for image_id, (name, stem) in enumerate(zip(names, stems, strict=True), 1):
        path = find_image(labels.path, name, follow_symlinks=source.options.follow_symlinks)
        data = read_regular_file(path, marks)
        digest.update(data)
        pixels = _pixels(path, data)
        instances = _instances(path, pixels, image_id, ledger, len(SEGMENTATION))
        records.append(ImageRecord(image_id, f"{stem}.jpg", pixels.shape[1], pixels.shape[0], instances))
    return DatasetIndex(
        format="bdd",
        split=split,
        annotation_path=labels.path,
        image_root=image_root,
        categories=classes.categories,
        records=tuple(records),
        has_masks=any(record.instances for record in records),
        dropped=tuple(ledger.dropped),
        notes=(labels.note(),),
        source_sha256=digest.hexdigest(),
        marks=marks,
    )


def write_bitmasks(index: DatasetIndex, keep: Collection[int], out: Path) -> list[Path]:
    """Copy the PNGs of the kept images, byte for byte, into `out`. Raises IntegrityError when one has changed."""
    ids, target = set(keep), out / subset_path(index)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for record in index.records:
        if record.image_id in ids:
            name = os.path.splitext(record.file_name)[0] + ".png"
            (target / name).write_bytes(read_regular_file(index.annotation_path / name))
            written.append(target / name)
    check_marks(index.marks)
    return written


def _pixels(path: Path, data: bytes) -> np.ndarray:
    """The picture, uint8 (height, width, 4)."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG",))
        pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError("not a PNG bitmask, or damaged", where=str(path)) from error
    if pixels.ndim != 3 or pixels.shape[2] != 4:
        raise DataError("a BDD bitmask has four channels", where=str(path))
    return pixels


def _instances(path: Path, pixels: np.ndarray, image_id: int, ledger: Ledger, n_classes: int) -> tuple[Instance, ...]:
    ledger.image_id = image_id
    numbers = pixels[..., 2].astype(np.int64) * 256 + pixels[..., 3]
    objects = pixels[..., 0] > 0
    instances = []
    for number in np.unique(numbers[objects]).tolist():
        rows, columns = np.nonzero((numbers == number) & objects)
        category_id, bits = (int(value) for value in pixels[rows[0], columns[0], :2])
        where = f"{path.name}: instance {number}"
        if category_id > n_classes:
            ledger.drop("unknown category", where, str(category_id))
            continue
        box = (float(columns.min()), float(rows.min()), float(columns.max()) + 1.0, float(rows.max()) + 1.0)
        mask = MaskFile(path, number, "bdd-bitmask")
        own_id = image_id * 100_000 + number
        instances.append(Instance(own_id, category_id, box, mask, float(len(rows)), bool(bits & CROWD_BITS)))
    return tuple(instances)
