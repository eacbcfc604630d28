"""PASCAL VOC: XML annotations, image-set lists and palette masks.

Boxes are 1-based and inclusive, so [xmin - 1, xmax) in half-open pixels; fractions occur and are kept (devkit, section
4). In the masks 0 is background and 255 the void border around objects.
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from sptcore.data.format import Source
from sptcore.data.images import find_image, image_size, read_regular_file
from sptcore.data.ledger import Ledger, name_notes
from sptcore.data.records import Box, DatasetIndex, ImageRecord, Instance, MaskFile
from sptcore.data.source_file import Mark
from sptcore.data.voc.layout import Home, read_list
from sptcore.data.voc.subset import image_folder, write_subset
from sptcore.data.voc.xml import VocAnnotation, VocObject, parse_annotation
from sptcore.errors import DataError

__all__ = ["detect", "image_folder", "read", "splits", "write_subset"]

_OFFICIAL_NAME = re.compile(r"(\d{4})_(\d{6})")
_MAX_SIDE = 65_535


def detect(root: Path) -> bool:
    """Whether a VOC devkit lies at `root` (the folder with `Annotations` and `ImageSets`, or one that holds it)."""
    return Home.find(root) is not None


def splits(root: Path) -> list[str]:
    """The splits that have a list of images, see `Home.splits`."""
    home = Home.find(root)
    return home.splits() if home else []


def read(source: Source, split: str) -> DatasetIndex:
    """All images of a split's list with their objects; masks where the set has them.

    `source.annotation` may name another list, `ImageSets/Segmentation/val.txt`. An image with a SegmentationObject mask
    gets its pixels by object, one with a SegmentationClass mask only by class. Raises DataError naming file and line.
    """
    home, list_path = _locate(source, split)
    names = read_list(list_path)
    reading = _Reading(home, source, split, Ledger(str(home.path), source.options.strict))
    reading.digest.update(read_regular_file(list_path, reading.marks))
    records = tuple(reading.record(name, image_id) for name, image_id in zip(names, _image_ids(names), strict=True))
    return DatasetIndex(
        format="voc",
        split=split,
        annotation_path=list_path,
        image_root=reading.image_root,
        categories=home.categories,
        records=records,
        has_masks=any(thing.segmentation for record in records for thing in record.instances),
        dropped=tuple(reading.ledger.dropped),
        notes=(*_notes(list_path, records), *name_notes(names)),
        counts=dict(reading.ledger.counts),
        source_sha256=reading.digest.hexdigest(),
        marks=reading.marks,
    )


def _locate(source: Source, split: str) -> tuple[Home, Path]:
    home = Home.find(source.root)
    if home is None:
        raise DataError("no VOC devkit here", where=str(source.root), hint="it holds Annotations/ and ImageSets/")
    if source.annotation is None:
        list_path = home.list_path(split)
        if list_path is None:
            raise DataError(f"no list of the {split} images", where=str(home.path / "ImageSets" / "Main"))
        return home, list_path
    given = source.annotation
    if given.suffix != ".txt" or given.parent.parent.name != "ImageSets":
        raise DataError("for VOC, --ann is a list such as ImageSets/Segmentation/val.txt", where=str(given))
    return Home(given.parents[2]), given


def _image_ids(names: list[str]) -> list[int]:
    """2007_000033 becomes 2007000033; a list with any other name is numbered from 1."""
    matches = [_OFFICIAL_NAME.fullmatch(name) for name in names]
    if all(matches):
        return [int(match[1] + match[2]) for match in matches if match]
    return list(range(1, len(names) + 1))


def _notes(list_path: Path, records: tuple[ImageRecord, ...]) -> tuple[str, ...]:
    kinds = [{t.segmentation.kind for t in r.instances if isinstance(t.segmentation, MaskFile)} for r in records]
    by_object = sum("voc-object" in kind for kind in kinds)
    by_class = sum("voc-class" in kind for kind in kinds)
    images = f"{list_path.parents[2].name}, images of {list_path.parent.name}/{list_path.name}"
    masks = f"{by_object} with SegmentationObject masks, {by_class} with SegmentationClass masks only"
    return (f"{images}: {masks}, {len(records) - by_object - by_class} with boxes only",)


@dataclass
class _Reading:
    """The state of one pass over a split: where things lie, what was dropped, the fingerprint so far."""

    home: Home
    source: Source
    split: str
    ledger: Ledger
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    marks: dict[str, Mark] = field(default_factory=dict)
    _n_instances: int = 0

    def __post_init__(self) -> None:
        self.image_root = self.source.image_roots.get(self.split, self.home.path / "JPEGImages")
        self._images = _by_stem(self.image_root)
        self._masks = {
            kind: _by_stem(self.home.path / folder)
            for kind, folder in (("voc-object", "SegmentationObject"), ("voc-class", "SegmentationClass"))
        }
        self._category_ids = {category.name: category.category_id for category in self.home.categories}

    def record(self, name: str, image_id: int) -> ImageRecord:
        """The record of the image called `name`."""
        self.ledger.image_id = image_id
        path = self._inside("Annotations", f"{name}.xml")
        data = read_regular_file(path, self.marks)
        self.digest.update(data)
        annotation = parse_annotation(data, path)
        file_name = self._images.get(name) or name + _suffix(annotation.filename)
        width, height = self._size(annotation, path, file_name)
        instances = self._instances(annotation, f"Annotations/{name}.xml", (width, height), self._mask(name))
        return ImageRecord(image_id, file_name, width, height, instances)

    def _inside(self, folder: str, name: str) -> Path:
        path = self.home.path / folder / name
        if os.path.islink(path):
            return find_image(self.home.path / folder, name, follow_symlinks=self.source.options.follow_symlinks)
        return path

    def _mask(self, name: str) -> tuple[Path, str] | None:
        """The mask picture to use for an image, and its kind."""
        for kind, names in self._masks.items():
            if name in names:
                path = self._inside("SegmentationObject" if kind == "voc-object" else "SegmentationClass", names[name])
                self.digest.update(read_regular_file(path, self.marks))
                return path, kind
        return None

    def _size(self, annotation: VocAnnotation, path: Path, file_name: str) -> tuple[int, int]:
        """Width and height as annotated, else as given by --size, else from the image's header."""
        size = (_side(annotation.size.get("width", "")), _side(annotation.size.get("height", "")))
        if 0 < size[0] <= _MAX_SIDE and 0 < size[1] <= _MAX_SIDE:
            return size
        if any(side < 0 or side > _MAX_SIDE for side in size):
            raise DataError(f"impossible image size {annotation.size}", where=str(path))
        if self.source.options.size:
            return self.source.options.size
        image = find_image(self.image_root, file_name, follow_symlinks=self.source.options.follow_symlinks)
        if not image.is_file():
            raise DataError(
                "no image size in the annotation, and the image is not there",
                where=str(path),
                hint=f"put the image at {image}, or give --size WxH",
            )
        self.ledger.counts["size read from the image"] += 1
        return image_size(image)[:2]

    def _instances(
        self, annotation: VocAnnotation, where: str, size: tuple[int, int], mask: tuple[Path, str] | None
    ) -> tuple[Instance, ...]:
        instances = []
        for number, thing in enumerate(annotation.objects, 1):
            place = f"{where}:{thing.line}"
            category_id = self._category_ids.get(thing.name)
            if category_id is None:
                self.ledger.drop("unknown category", place, repr(thing.name[:80]))
                continue
            box = self._box(thing, size, place)
            if box is None:
                continue
            self._n_instances += 1
            segmentation = None
            if mask is not None:
                segmentation = MaskFile(mask[0], number if mask[1] == "voc-object" else category_id, mask[1])
            difficult = thing.difficult not in ("", "0")
            instances.append(Instance(self._n_instances, category_id, box, segmentation, is_difficult=difficult))
        return tuple(instances)

    def _box(self, thing: VocObject, size: tuple[int, int], where: str) -> Box | None:
        try:
            xmin, ymin, xmax, ymax = (float(thing.corners[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        except KeyError as error:
            self.ledger.drop("malformed box", where, f"no <{error.args[0]}>")
        except ValueError as error:
            self.ledger.drop("malformed box", where, str(error))
        else:
            if all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
                return self.ledger.keep_box((xmin - 1.0, ymin - 1.0, xmax, ymax), *size, where, slack=1.0)
            self.ledger.drop("out of range", where, "a corner is not finite")
        return None


def _suffix(file_name: str) -> str:
    """The ending of an image that is not there: what the annotation says if it is a known one, else `.jpg`."""
    ending = os.path.splitext(file_name)[1]
    return ending if ending.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff") else ".jpg"


def _side(text: str) -> int:
    """A side in pixels; 0 where the file states none, -1 for what is no number."""
    try:
        value = float(text or 0)
    except ValueError:
        return -1
    return int(value) if math.isfinite(value) and value == int(value) else -1


def _by_stem(folder: Path) -> dict[str, str]:
    """File names of a folder by their stem; the first in alphabetical order where several share one."""
    names = sorted(os.listdir(folder), reverse=True) if folder.is_dir() else []
    return {os.path.splitext(name)[0]: name for name in names}
