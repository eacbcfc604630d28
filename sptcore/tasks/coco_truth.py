"""The annotations of a split in COCO's form, as the metrics want them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sptcore.data.rasterize import instance_mask
from sptcore.data.records import DatasetIndex, ImageRecord, Instance, Polygons, Rle
from sptcore.tasks.coco_metrics import encode_mask, mask_area


def coco_truth(index: DatasetIndex) -> dict[str, Any]:
    """Images, categories and annotations of `index` as a COCO ground truth.

    Annotations are numbered from 1, since COCO's evaluation takes id 0 for "unmatched". Objects marked difficult (VOC)
    count as crowds: neither a hit nor a miss. An object without a mask has its box for one.
    """
    numbered = ((record, instance) for record in index.records for instance in record.instances)
    return {
        "images": [{"id": one.image_id, "width": one.width, "height": one.height} for one in index.records],
        "categories": [{"id": one.category_id, "name": one.name} for one in index.categories],
        "annotations": [
            _annotation(number, record, instance, masks=index.has_masks)
            for number, (record, instance) in enumerate(numbered, start=1)
        ],
    }


def _annotation(number: int, record: ImageRecord, instance: Instance, *, masks: bool) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box_xyxy
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": record.image_id,
        "category_id": instance.category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "iscrowd": int(instance.is_crowd or instance.is_difficult),
        "area": instance.area,
    }
    if masks:
        annotation["segmentation"] = _segmentation(record, instance)
    if annotation["area"] is None:
        annotation["area"] = _area(annotation) if masks else (x2 - x1) * (y2 - y1)
    return annotation


def _segmentation(record: ImageRecord, instance: Instance) -> Any:
    segmentation = instance.segmentation
    if isinstance(segmentation, Polygons) and not instance.is_crowd and not instance.is_difficult:
        return segmentation.coordinates()
    if isinstance(segmentation, Rle):
        return {"size": [segmentation.height, segmentation.width], "counts": segmentation.counts.decode("ascii")}
    return encode_mask(instance_mask(instance, record.height, record.width))


def _area(annotation: dict[str, Any]) -> float:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        return mask_area(segmentation)
    return float(sum(abs(_shoelace(polygon)) for polygon in segmentation))


def _shoelace(polygon: list[float]) -> float:
    x, y = np.array(polygon, dtype=np.float64).reshape(-1, 2).T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
