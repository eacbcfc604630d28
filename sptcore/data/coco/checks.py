"""Which annotations are taken: every value is checked here before any native code sees it.

pycocotools crashes on coordinates that are far out, returns uninitialised memory for run lengths that do not fill the
image, and reads text and odd counts without a word; none of these pass. Nothing is repaired: a box may be clipped to
its image, everything else is taken as it stands or left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from sptcore.data.coco.scan import strict_error
from sptcore.data.coco.schema import (
    MAX_OUTLINE,
    MAX_POLYGON_NUMBERS,
    Annotation,
    ImageEntry,
    LooseAnnotation,
    RunLengths,
    coordinate_limit,
)
from sptcore.data.records import Box, Dropped, Instance, Polygons, Rle
from sptcore.data.rle import RunLengthFault, compressed, decoded_counts, fill_fault, without_empty_runs

BOX_CLIPPED = "box clipped to the image"
BOX_FROM_MASK = "box missing or malformed, taken from the mask"
MASK_FROM_BOX = "no mask, box used"
OUTSIDE_TOLERANCE = 0.01  # pixels: decimal fractions do not add up exactly


@dataclass
class Report:
    """Collects what was left out and what was kept but noticed. With `strict` the first fault is raised."""

    path: Path
    strict: bool = False
    dropped: list[Dropped] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def drop(self, fault: Dropped) -> None:
        """Count `fault`, or raise it as a DataError."""
        if self.strict:
            raise strict_error(self.path, fault)
        self.dropped.append(fault)


class Unusable(Exception):
    """An annotation, or one polygon of it, that is left out: cause, place inside the annotation, detail."""

    def __init__(self, cause: str, place: str = "", detail: str = "") -> None:
        super().__init__(cause)
        self.cause, self.place, self.detail = cause, place, detail


def check_annotation(
    entry: Annotation | LooseAnnotation, image: ImageEntry, position: int, report: Report
) -> Instance | None:
    """The instance of an entry, or None when it is left out; `position` is the entry's place in the file."""
    try:
        if isinstance(entry, Annotation):
            box, parts, is_crowd, area = entry.bbox, entry.segmentation, bool(entry.iscrowd), entry.area
        else:
            box, parts, is_crowd, area = _pick_apart(entry)
        mask = _segmentation(parts, image, position, report)
        box_xyxy = _box(box, mask, image, report)
    except Unusable as fault:
        place = f"annotations[{position}]{fault.place}"
        report.drop(Dropped(fault.cause, place, fault.detail, position, image.id))
        return None
    if mask is None:
        report.counts[MASK_FROM_BOX] += 1
    return Instance(entry.id, entry.category_id, box_xyxy, mask, area, is_crowd)


def _pick_apart(entry: LooseAnnotation) -> tuple[Any, Any, bool, float | None]:
    """The parts of an entry that has a fault of type somewhere: what does not decode stays out or speaks for itself."""
    box = _try(entry.bbox, tuple[float, float, float, float])
    area = _try(entry.area, float)
    crowd = _try(entry.iscrowd, int | bool | None, default=0)
    return box, _loose_segmentation(entry.segmentation), bool(crowd), area


def _try(raw: Raw, kind: Any, default: Any = None) -> Any:
    if not memoryview(raw).nbytes:
        return default
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return default


def _loose_segmentation(raw: Raw) -> Any:
    if not memoryview(raw).nbytes or bytes(memoryview(raw)) == b"null":
        return None
    parts = _try(raw, list[Raw])
    if parts is not None:
        return [_loose_polygon(part, k) for k, part in enumerate(parts)]
    try:
        return msgspec.json.decode(raw, type=RunLengths)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unusable("segmentation is neither polygons nor run lengths", ".segmentation", str(error)[:120]) from error


def _loose_polygon(raw: Raw, number: int) -> list[float] | Unusable:
    try:
        return msgspec.json.decode(raw, type=list[float])
    except msgspec.ValidationError as error:
        place = f".segmentation[{number}]"
        if "out of range" in str(error):
            raise Unusable("coordinate out of range", place) from error
        return Unusable("polygon is no list of numbers", place, str(error)[:120])
    except RecursionError:
        return Unusable("polygon is no list of numbers", f".segmentation[{number}]", "nested too deeply")


def _segmentation(parts: Any, image: ImageEntry, position: int, report: Report) -> Polygons | Rle | None:
    if not parts:
        return None
    if isinstance(parts, RunLengths):
        return _run_lengths(parts, image)
    limit = coordinate_limit(image.width, image.height)
    kept = []
    for number, polygon in enumerate(parts):
        fault = polygon if isinstance(polygon, Unusable) else _polygon_fault(polygon, number, limit)
        if fault is None:
            kept.append(polygon)
        else:
            place = f"annotations[{position}]{fault.place}"
            report.drop(Dropped(fault.cause, place, fault.detail, image_id=image.id))
    return Polygons(parts=kept) if kept else None


def _polygon_fault(polygon: Sequence[float], number: int, limit: int) -> Unusable | None:
    """None for a polygon pycocotools can take; raises Unusable for coordinates that make the annotation doubtful."""
    size = len(polygon)
    if size & 1:
        return Unusable("polygon with an odd count", f".segmentation[{number}]", f"{size} numbers")
    if size < 6:
        return Unusable("polygon of less than three points", f".segmentation[{number}]", f"{size // 2} points")
    if max(polygon) > limit or min(polygon) < -limit:
        raise Unusable("coordinate out of range", f".segmentation[{number}]", f"beyond ±{limit}")
    if size > MAX_POLYGON_NUMBERS:
        raise Unusable("polygon of more than a million points", f".segmentation[{number}]", f"{size // 2} points")
    if 5 * size * limit > MAX_OUTLINE and _outline(polygon) > MAX_OUTLINE:
        raise Unusable("outline too long", f".segmentation[{number}]", f"{size // 2} points")
    return None


def _outline(polygon: Sequence[float]) -> float:
    """Points that pycocotools walks along the polygon: it samples every edge at a fifth of a pixel."""
    points = np.array(polygon).reshape(-1, 2)
    return float((5 * np.abs(points - np.roll(points, 1, axis=0)).max(axis=1) + 1).sum())


def _run_lengths(parts: RunLengths, image: ImageEntry) -> Rle:
    if parts.size != (image.height, image.width):
        raise Unusable("run lengths of another size", ".segmentation.size", f"{parts.size[0]}x{parts.size[1]}")
    try:
        counts = decoded_counts(parts.counts) if isinstance(parts.counts, str) else parts.counts
    except RunLengthFault as error:
        raise Unusable("run lengths malformed", ".segmentation.counts", str(error)) from error
    fault = fill_fault(counts, image.height, image.width)
    if fault:
        raise Unusable("run lengths do not fill the image", ".segmentation.counts", fault)
    plain = without_empty_runs(counts)
    if isinstance(parts.counts, str) and plain is counts:
        return Rle(image.height, image.width, parts.counts.encode("ascii"))
    return Rle(image.height, image.width, compressed(plain, image.height, image.width))


def _box(box: Sequence[float] | None, mask: Polygons | Rle | None, image: ImageEntry, report: Report) -> Box:
    """The box as half-open pixels inside the image, from the mask's extent where the entry has none."""
    if box is None:
        extent = _extent(mask)
        if extent is None:
            raise Unusable("box missing or malformed", ".bbox")
        report.counts[BOX_FROM_MASK] += 1
        box = extent
    x, y, w, h = box
    x2, y2, width, height = x + w, y + h, image.width, image.height
    if 0 <= x < x2 <= width and 0 <= y < y2 <= height:
        return (x, y, x2, y2)
    limit = coordinate_limit(width, height)
    if not (-limit <= x <= limit and -limit <= y <= limit and w <= limit and h <= limit):
        raise Unusable("coordinate out of range", ".bbox", f"beyond ±{limit}")
    if x2 <= x or y2 <= y:
        raise Unusable("box without area", ".bbox", f"{w:g}x{h:g}")
    if x >= width or y >= height or x2 <= 0 or y2 <= 0:
        raise Unusable("box outside the image", ".bbox", f"[{x:g}, {y:g}, {w:g}, {h:g}]")
    slack = OUTSIDE_TOLERANCE
    if x < -slack or y < -slack or x2 > width + slack or y2 > height + slack:
        report.counts[BOX_CLIPPED] += 1
    return (max(x, 0.0), max(y, 0.0), float(min(x2, width)), float(min(y2, height)))


def _extent(mask: Polygons | Rle | None) -> tuple[float, float, float, float] | None:
    """x, y, width, height around a mask."""
    if mask is None:
        return None
    if isinstance(mask, Rle):
        from pycocotools import mask as coco_mask

        x, y, w, h = coco_mask.toBbox({"size": [mask.height, mask.width], "counts": mask.counts}).tolist()
        return x, y, w, h
    xs = [x for part in mask.coordinates() for x in part[0::2]]
    ys = [y for part in mask.coordinates() for y in part[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
