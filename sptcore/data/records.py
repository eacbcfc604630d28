"""The one record type between annotation files and everything else: what is in an image, and where.

Readers (`coco.py`, `bdd.py` ...) turn their conventions into these; nobody downstream knows a format.
Boxes are half-open pixels: x2 and y2 lie just outside the object (docs/formats.md).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

Box = tuple[float, float, float, float]


class Polygons(msgspec.Struct, frozen=True, gc=False):
    """COCO polygons `[[x1, y1, x2, y2, ...], ...]` in pixels, as JSON text: a tenth of the memory of the numbers.

    Readers that hand records out in blocks leave the numbers in `parts`, as they are needed at once.
    """

    json: bytes = b""
    parts: list[list[float]] | None = None

    def coordinates(self) -> list[list[float]]:
        """One flat list `[x1, y1, x2, y2, ...]` a polygon."""
        return self.parts if self.parts is not None else msgspec.json.decode(self.json, type=list[list[float]])


class Rle(msgspec.Struct, frozen=True, gc=False):
    """COCO run lengths, column-major. `counts` is the compressed string, as pycocotools takes it."""

    height: int
    width: int
    counts: bytes


class MaskFile(msgspec.Struct, frozen=True, gc=False):
    """An object's pixels in a palette or RGBA picture: those whose value (or instance number) is `value`."""

    path: Path
    value: int
    kind: str  # "voc-object" | "voc-class" | "bdd-bitmask"


Segmentation = Polygons | Rle | MaskFile


class Instance(msgspec.Struct, frozen=True, gc=False):
    """One object of an image.

    `area` is the annotation's own figure in pixels (COCO metrics sort objects by it), None where the format has none.
    """

    instance_id: int
    category_id: int
    box_xyxy: Box
    segmentation: Segmentation | None = None
    area: float | None = None
    is_crowd: bool = False
    is_difficult: bool = False


class ImageRecord(msgspec.Struct, frozen=True, gc=False):
    """One image and its objects. `file_name` is relative to the index's `image_root`; sizes in pixels.

    `class_id` is the image's own class (Tiny ImageNet), None for detection sets.
    """

    image_id: int
    file_name: str
    width: int
    height: int
    instances: tuple[Instance, ...] = ()
    class_id: int | None = None


class Category(msgspec.Struct, frozen=True):
    """A class of the data set under its own id (COCO's have gaps)."""

    category_id: int
    name: str


class Dropped(msgspec.Struct, frozen=True):
    """An annotation that was left out, and why: `cause` is one of a short fixed list, `where` a JSON path or a line.

    `entry` is the annotation's position in its file, -1 when only a part of it (one polygon) was left out; `image_id`
    the image it belongs to, -1 where there is none.
    """

    cause: str
    where: str
    detail: str = ""
    entry: int = -1
    image_id: int = -1


class DatasetIndex(msgspec.Struct, frozen=True):
    """Every image of one split of a data set, in the order of its annotation file.

    `annotation_path` is the file (COCO, BDD) or the folder (VOC, Tiny ImageNet) the records come from;
    `has_masks` tells whether any instance carries a segmentation. `counts` tells what was kept but is worth knowing
    ("box clipped": 3). `source_sha256` is the fingerprint of the annotation file read, "" where there are many.
    `marks`: how each source file was when it was read (`sptcore.data.source_file.check_marks`), where there are many.
    `padding` (columns, rows): the records' sizes are those of a black canvas with the image in its upper left cell.
    """

    format: str
    split: str
    annotation_path: Path
    image_root: Path
    categories: tuple[Category, ...]
    records: tuple[ImageRecord, ...]
    has_masks: bool = False
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    source_sha256: str = ""
    marks: dict[str, tuple[int, int, int, int]] = {}
    padding: tuple[int, int] = (1, 1)

    def image_path(self, record: ImageRecord) -> Path:
        """Where the image of `record` lies."""
        return self.image_root / record.file_name
