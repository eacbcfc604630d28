"""The only owner of "what is an object pixel".

Masks are rasterised as pycocotools does, bit for bit (OpenCV and Pillow paint the boundary as well). A box covers the
pixels whose centre it holds; for selection labels of box data it covers every pixel it touches (docs/formats.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from sptcore.data.records import Box, ImageRecord, Instance, MaskFile, Polygons, Rle
from sptcore.data.rle import compressed, decoded_counts, without_empty_runs
from sptcore.errors import DataError

VOID = 255
FEW_EDGES = 128
Choice = Literal["include", "exclude"]


class PixelRule(msgspec.Struct, frozen=True):
    """Which pixels count as object.

    `ratio_from`: "auto" takes an object's mask and its box where there is none, "masks" and "boxes" only these.
    `crowd`, `difficult`, `void`: whether crowd regions, difficult objects and the void border of VOC masks count.
    `classes`: category ids that count, None for all. `overlap`: "union" counts a pixel once, "sum" once an object.
    """

    ratio_from: Literal["auto", "boxes", "masks"] = "auto"
    crowd: Literal["include", "exclude", "drop-image"] = "include"
    difficult: Choice = "include"
    void: Choice = "exclude"
    classes: frozenset[int] | None = None
    overlap: Literal["union", "sum"] = "union"


DEFAULT_RULE = PixelRule()


def object_mask(record: ImageRecord, rule: PixelRule = DEFAULT_RULE, **changes: Any) -> np.ndarray:
    """The union of an image's objects, uint8 (height, width) of 0 and 1. `changes` are fields of PixelRule.

    Raises DataError when a mask picture is missing or of another size.
    """
    rule = msgspec.structs.replace(rule, **changes)
    return _mask_of(record, counted_instances(record, rule), rule, _centre_columns)


def touch_mask(record: ImageRecord, rule: PixelRule = DEFAULT_RULE, **changes: Any) -> np.ndarray:
    """As `object_mask`, but a box covers every pixel it touches: what selection labels of box data are made from."""
    rule = msgspec.structs.replace(rule, **changes)
    return _mask_of(record, counted_instances(record, rule), rule, _touched_columns)


def instance_mask(instance: Instance, height: int, width: int) -> np.ndarray:
    """One object's pixels, uint8 (height, width): its mask, or its box where it has none."""
    record = ImageRecord(0, "", width, height, (instance,))
    return _mask_of(record, [instance], DEFAULT_RULE, _centre_columns)


def on_canvas(record: ImageRecord, width: int, height: int) -> tuple[Instance, ...]:
    """The objects of `record` with their masks on a larger canvas, the image in its upper left; boxes stay as they are.

    Raises DataError when a mask picture is missing or of another size.
    """
    from pycocotools import mask as coco_mask

    moved = []
    for instance in record.instances:
        if instance.segmentation is not None:
            canvas = np.zeros((height, width), np.uint8, order="F")
            canvas[: record.height, : record.width] = instance_mask(instance, record.height, record.width)
            code: Any = coco_mask.encode(canvas)
            instance = msgspec.structs.replace(instance, segmentation=Rle(height, width, code["counts"]))
        moved.append(instance)
    return tuple(moved)


def object_pixels(record: ImageRecord, rule: PixelRule = DEFAULT_RULE, **changes: Any) -> int:
    """How many pixels `object_mask` has, without painting it where run lengths or box edges are enough."""
    if changes:
        rule = msgspec.structs.replace(rule, **changes)
    instances = counted_instances(record, rule)
    if rule.overlap == "sum":
        return sum(_union_pixels(record, [instance], rule) for instance in instances)
    return _union_pixels(record, instances, rule)


def object_ratio(record: ImageRecord, rule: PixelRule = DEFAULT_RULE, **changes: Any) -> tuple[int, int]:
    """(object pixels, image pixels) by the annotation's own width and height: the ratio as an exact pair."""
    return object_pixels(record, rule, **changes), record.width * record.height


def is_below(pixels: int, total: int, limit: Fraction) -> bool:
    """Whether pixels / total < limit, strictly, decided in integers."""
    return pixels * limit.denominator < limit.numerator * total


def counted_instances(record: ImageRecord, rule: PixelRule) -> list[Instance]:
    """The objects of an image that count under `rule`."""
    if rule.classes is None and rule.ratio_from != "masks" and "exclude" not in (rule.crowd, rule.difficult):
        return list(record.instances)
    return [
        instance
        for instance in record.instances
        if not (instance.is_crowd and rule.crowd == "exclude")
        and not (instance.is_difficult and rule.difficult == "exclude")
        and not (rule.ratio_from == "masks" and instance.segmentation is None)
        and (rule.classes is None or instance.category_id in rule.classes)
    ]


def _union_pixels(record: ImageRecord, instances: Sequence[Instance], rule: PixelRule) -> int:
    if not instances:
        return 0
    masks, boxes = _parts(instances, rule)
    if not masks:
        return _box_union_area(boxes, record.width, record.height)
    if any(isinstance(mask, MaskFile) for mask in masks):
        return int(np.count_nonzero(_mask_of(record, instances, rule, _centre_columns)))
    from pycocotools import mask as coco_mask

    height, width = record.height, record.width
    codes = _codes(masks, height, width)
    codes += [_box_code(box, height, width) for box in _clipped(boxes, record, _centre_columns)]
    return int(coco_mask.area(_merged(codes))) if codes else 0


def _parts(instances: Iterable[Instance], rule: PixelRule) -> tuple[list[Polygons | Rle | MaskFile], list[Box]]:
    """The masks and the boxes that stand for the objects."""
    masks, boxes = [], []
    for instance in instances:
        if instance.segmentation is None or rule.ratio_from == "boxes":
            boxes.append(instance.box_xyxy)
        else:
            masks.append(instance.segmentation)
    return masks, boxes


def _mask_of(record: ImageRecord, instances: Sequence[Instance], rule: PixelRule, edges: Any) -> np.ndarray:
    masks, boxes = _parts(instances, rule)
    codes = _codes([mask for mask in masks if not isinstance(mask, MaskFile)], record.height, record.width)
    mask = _painted(_merged(codes)) if codes else np.zeros((record.height, record.width), np.uint8)
    for x1, y1, x2, y2 in _clipped(boxes, record, edges):
        mask[y1:y2, x1:x2] = 1
    files = [part for part in masks if isinstance(part, MaskFile)]
    if files:
        mask |= _picture_mask(files, record, rule)
    return mask


def _codes(masks: Sequence[Polygons | Rle | MaskFile], height: int, width: int) -> list[Any]:
    """pycocotools' run-length objects of polygons and run lengths; all polygons in one call."""
    from pycocotools import mask as coco_mask

    outlines: list[Any] = [part for mask in masks if isinstance(mask, Polygons) for part in mask.coordinates()]
    codes: list[Any] = coco_mask.frPyObjects(outlines, height, width) if outlines else []
    codes += [{"size": [mask.height, mask.width], "counts": mask.counts} for mask in masks if isinstance(mask, Rle)]
    return codes


def _merged(codes: list[Any]) -> Any:
    from pycocotools import mask as coco_mask

    return codes[0] if len(codes) == 1 else coco_mask.merge(codes)


def _painted(code: Any) -> np.ndarray:
    """Run lengths as pixels, uint8 (height, width); they run down the columns, background first."""
    height, width = code["size"]
    counts = decoded_counts(code["counts"].decode("ascii"))
    runs = np.arange(len(counts), dtype=np.uint8) & 1
    return np.ascontiguousarray(np.repeat(runs, counts).reshape(width, height).T)


def _box_code(box: tuple[int, int, int, int], height: int, width: int) -> Any:
    """The run lengths of a box of whole pixels: column after column, background first."""
    x1, y1, x2, y2 = box
    tall = y2 - y1
    counts = [x1 * height + y1] + [tall, height - tall] * (x2 - x1 - 1) + [tall, (width - x2 + 1) * height - y2]
    return {"size": [height, width], "counts": compressed(without_empty_runs(counts), height, width)}


def _centre_columns(low: float, high: float) -> tuple[int, int]:
    """The pixels whose centre lies in [low, high): half-open range."""
    return math.ceil(low - 0.5), math.ceil(high - 0.5)


def _touched_columns(low: float, high: float) -> tuple[int, int]:
    """The pixels that [low, high) overlaps: half-open range."""
    return math.floor(low), math.ceil(high)


def _clipped(boxes: Iterable[Box], record: ImageRecord, edges: Any) -> list[tuple[int, int, int, int]]:
    """Boxes as whole pixels inside the image, x2 and y2 excluded; those without a pixel left out."""
    pixels = []
    for x1, y1, x2, y2 in boxes:
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, record.width), min(y2, record.height)
        if x1 < x2 and y1 < y2:
            (left, right), (top, bottom) = edges(x1, x2), edges(y1, y2)
            if left < right and top < bottom:
                pixels.append((left, top, right, bottom))
    return pixels


def _box_union_area(boxes: Sequence[Box], width: int, height: int) -> int:
    """How many pixels of an image have their centre in one of the boxes, counted on the grid that their edges span."""
    inside = np.minimum(np.maximum(np.array(boxes), 0), (width, height, width, height))
    edges = np.ceil(inside - 0.5)  # (n, 4): `_centre_columns` of each
    if len(boxes) == 1:
        x1, y1, x2, y2 = edges[0].tolist()
        return int(max(x2 - x1, 0) * max(y2 - y1, 0))
    xs, ys = _grid_lines(edges[:, 0::2]), _grid_lines(edges[:, 1::2])
    across = (edges[:, 0, None] <= xs[:-1]) & (xs[:-1] < edges[:, 2, None])  # (n boxes, n columns)
    down = (edges[:, 1, None] <= ys[:-1]) & (ys[:-1] < edges[:, 3, None])  # (n boxes, n rows)
    covered = down.astype(np.float32).T @ across.astype(np.float32) > 0  # (n rows, n columns)
    return int((ys[1:] - ys[:-1]) @ covered @ (xs[1:] - xs[:-1]))


def _grid_lines(edges: np.ndarray) -> np.ndarray:
    """The edges in order. Equal ones make cells without a pixel, which a few boxes bear better than many."""
    return np.sort(edges, axis=None) if edges.size <= FEW_EDGES else np.unique(edges)


def _picture_mask(files: Sequence[MaskFile], record: ImageRecord, rule: PixelRule) -> np.ndarray:
    """The union of objects that are values in mask pictures, each picture read once."""
    mask = np.zeros((record.height, record.width), np.uint8)
    values: dict[tuple[Path, str], list[int]] = {}
    for file in files:
        values.setdefault((file.path, file.kind), []).append(file.value)
    for (path, kind), wanted in values.items():
        picture = _read_picture(path, kind, (record.height, record.width))
        if rule.void == "include" and kind != "bdd-bitmask":
            wanted = [*wanted, VOID]
        mask |= np.isin(picture, wanted)
    return mask


def _read_picture(path: Path, kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Object numbers of a mask picture, (height, width). Raises DataError for a missing or wrong file."""
    import io

    from PIL import Image

    from sptcore.data.images import read_regular_file

    try:
        picture = Image.open(io.BytesIO(read_regular_file(path)), formats=("PNG",))
        if (picture.height, picture.width) != shape:
            size = f"{picture.width}x{picture.height}"
            raise DataError(f"the mask is {size}, its image {shape[1]}x{shape[0]}", where=str(path))
        pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError("not a PNG mask, or damaged", where=str(path)) from error
    if kind == "bdd-bitmask":  # R category, G attributes, B * 256 + A instance
        if pixels.ndim != 3 or pixels.shape[2] != 4:
            raise DataError("a BDD bitmask has four channels", where=str(path))
        numbers = pixels[..., 2].astype(np.int32) * 256 + pixels[..., 3]
        return np.where(pixels[..., 0] > 0, numbers, -1)
    if pixels.ndim != 2:
        raise DataError("a VOC mask is a palette picture", where=str(path))
    return pixels
