"""COCO results files: checked before any native code sees them, published whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.errors import DataError
from sptcore.files import write_atomically
from sptcore.labels.store.rle import decode

_MOST = 10_000_000


class _Mask(msgspec.Struct):
    size: Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]
    counts: str


class _Result(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    bbox: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)] | None = None
    segmentation: _Mask | None = None
    category: Any = None  # its class in words, as `spt predict` writes it; COCO's format has none


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    """Publish COCO results at `path`. Raises EnvironmentFault."""
    write_atomically(path, json.dumps(results) + "\n")


def read_results(path: Path, index: DatasetIndex, *, labels: bool = False) -> tuple[list[dict[str, Any]], bool]:
    """The results in a COCO results file, and whether all of them have masks (compressed run lengths).

    A box that is missing is made from its mask. `labels`: results that give images classes, with neither box nor mask,
    at most one an image and class. Raises DataError naming the entry that does not fit the format, the
    images or the classes of `index`.
    """
    entries = _parsed(path)
    images = {record.image_id: record for record in index.records}
    categories = {category.category_id: category.name for category in index.categories}
    results: list[dict[str, Any]] = []
    given: set[tuple[int, int]] = set()
    for number, entry in enumerate(entries):
        fault = _fault(entry, images.get(entry.image_id), categories) or _shape_fault(entry, labels, given)
        if fault:
            raise DataError(fault, where=f"{path}: [{number}]")
        results.append(_plain(entry))
        given.add((entry.image_id, entry.category_id))
    return results, bool(entries) and all(entry.segmentation is not None for entry in entries)


def _parsed(path: Path) -> list[_Result]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"the results file cannot be read: {error.strerror}", where=str(path)) from error
    try:
        entries = msgspec.json.decode(content, type=list[_Result])
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"not a COCO results file: {error}", where=str(path)) from error
    if len(entries) > _MOST:
        raise DataError(f"{len(entries)} results, more than {_MOST}", where=str(path))
    return entries


def _fault(entry: _Result, record: ImageRecord | None, categories: dict[int, str]) -> str | None:
    """What is wrong with an entry, None when nothing is."""
    if record is None:
        return f"image_id {entry.image_id} is not in the data"
    if entry.category_id not in categories:
        return f"category_id {entry.category_id} is not in the data"
    if isinstance(entry.category, str) and entry.category != categories[entry.category_id]:
        here = categories[entry.category_id]
        return f"category_id {entry.category_id} is {entry.category!r} in the results, {here!r} in the data"
    if not math.isfinite(entry.score):
        return "the score is not a finite number"
    if entry.bbox is not None and not (all(map(math.isfinite, entry.bbox)) and min(entry.bbox[2:]) >= 0):
        return f"bbox {entry.bbox} is not x, y, width, height"
    return None if entry.segmentation is None else _mask_fault(entry.segmentation, record)


def _shape_fault(entry: _Result, labels: bool, given: set[tuple[int, int]]) -> str | None:
    """What an entry of this kind must have, or must not."""
    bare = entry.bbox is None and entry.segmentation is None
    if bare and not labels:
        return "neither bbox nor segmentation (for classes of images: --task multilabel or classify)"
    if labels and not bare:
        return "a box or mask in a file of classes of images"
    if labels and (entry.image_id, entry.category_id) in given:
        return f"image {entry.image_id} has a second score of category {entry.category_id}"
    return None


def _mask_fault(mask: _Mask, record: ImageRecord) -> str | None:
    if mask.size != [record.height, record.width]:
        return f"the mask is for {mask.size} (height, width), the image is [{record.height}, {record.width}]"
    try:
        decode(mask.counts.encode("ascii"), *mask.size)
    except (ValueError, UnicodeEncodeError) as error:
        return f"segmentation.counts: {error}"
    return None


def _plain(entry: _Result) -> dict[str, Any]:
    plain: dict[str, Any] = {"image_id": entry.image_id, "category_id": entry.category_id, "score": entry.score}
    if entry.segmentation is not None:
        plain["segmentation"] = {"size": entry.segmentation.size, "counts": entry.segmentation.counts}
    if entry.bbox is not None or entry.segmentation is not None:
        plain["bbox"] = entry.bbox if entry.bbox is not None else _box_of(plain["segmentation"])
    return plain


def _box_of(mask: dict[str, Any]) -> list[float]:
    from pycocotools import mask as coco_mask

    box: Any = coco_mask.toBbox(mask)  # type: ignore[arg-type]
    return box.tolist()
