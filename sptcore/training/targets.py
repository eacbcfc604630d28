"""What a network is to learn of an image: a task's targets, made from its record in the frame of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sptcore.data.rasterize import instance_mask
from sptcore.data.records import ImageRecord, Instance
from sptcore.labels.geometry import Geometry
from sptcore.tasks.base import ModelSpec

_SMALLEST_BOX = 1.0

Target = dict[str, np.ndarray]
TargetRule = Callable[[ImageRecord, Geometry], Target]


@dataclass(frozen=True)
class BoxTargets:
    """Boxes, classes (from 1) and masks of the objects to learn: no crowds, none marked difficult, none cropped away.

    `class_of`: category id -> class; other categories are not learned.
    """

    class_of: dict[int, int]
    masks: bool = False

    @classmethod
    def of(cls, spec: ModelSpec) -> BoxTargets:
        """The targets of a detector of these classes."""
        return cls({category_id: number for number, (category_id, _) in enumerate(spec.categories, 1)}, spec.masks)

    def __call__(self, record: ImageRecord, geometry: Geometry) -> Target:
        kept = [one for one in record.instances if self._is_learned(one)]
        boxes = geometry.boxes(np.array([one.box_xyxy for one in kept], dtype=np.float64))
        visible = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= _SMALLEST_BOX)
        kept = [kept[number] for number in visible]
        target = {
            "boxes": boxes[visible].astype(np.float32),
            "labels": np.array([self.class_of[one.category_id] for one in kept], dtype=np.int64),
        }
        if self.masks:
            shape = (len(kept), geometry.out[1], geometry.out[0])
            target["masks"] = np.zeros(shape, dtype=np.uint8)
            for row, one in zip(target["masks"], kept, strict=True):
                row[:] = geometry.mask(instance_mask(one, record.height, record.width))
        return target

    def _is_learned(self, instance: Instance) -> bool:
        return not (instance.is_crowd or instance.is_difficult) and instance.category_id in self.class_of


TARGETS: dict[str, Callable[[ModelSpec], TargetRule]] = {"detect": BoxTargets.of}
"""The rule of each task in `sptcore.tasks.TASKS`."""
