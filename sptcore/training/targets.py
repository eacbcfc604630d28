"""What a network is to learn of an image: a task's targets, made from its record in the frame of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sptcore.data.rasterize import instance_mask
from sptcore.data.records import ImageRecord, Instance
from sptcore.labels.geometry import Geometry
from sptcore.tasks.base import ModelSpec
from sptcore.tasks.classifying import label_states

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
        kept, boxes = _visible([one for one in record.instances if self._is_learned(one)], geometry)
        target = {
            "boxes": boxes.astype(np.float32),
            "labels": np.array([self.class_of[one.category_id] for one in kept], dtype=np.int64),
        }
        if self.masks:
            shape = (len(kept), geometry.frame[1], geometry.frame[0])
            target["masks"] = np.zeros(shape, dtype=np.uint8)
            for row, one in zip(target["masks"], kept, strict=True):
                row[:] = geometry.mask(instance_mask(one, record.height, record.width))
        return target

    def _is_learned(self, instance: Instance) -> bool:
        return not (instance.is_crowd or instance.is_difficult) and instance.category_id in self.class_of


@dataclass(frozen=True)
class LabelTargets:
    """The classes an image shows: `present` (C,) float32 0 or 1, and `counted` (C,) bool.

    A class is shown by an object of which a pixel or more stays in the frame. Where all of those are marked difficult
    the class is not counted: neither shown nor absent. `class_of`: category id -> number from 0.
    """

    class_of: dict[int, int]

    @classmethod
    def of(cls, spec: ModelSpec) -> LabelTargets:
        """The targets of a classifier of these classes."""
        return cls({category_id: number for number, (category_id, _) in enumerate(spec.categories)})

    def __call__(self, record: ImageRecord, geometry: Geometry) -> Target:
        visible, _ = _visible(record.instances, geometry)
        present = np.zeros(len(self.class_of), dtype=np.float32)
        counted = np.ones(len(self.class_of), dtype=bool)
        for category_id, certain in label_states(visible).items():
            if category_id in self.class_of:
                present[self.class_of[category_id]] = certain
                counted[self.class_of[category_id]] = certain
        return {"present": present, "counted": counted}


@dataclass(frozen=True)
class ClassTargets:
    """The class of an image: `classes` (C,) float32, its share of every class, and `extent` (2,) int64.

    `extent` is the height and width of the image itself in the frame, which on a canvas (IN-S) are less than the
    frame's: what is mixed into an image later has to lie there. `class_of`: category id -> number from 0.
    """

    class_of: dict[int, int]

    @classmethod
    def of(cls, spec: ModelSpec) -> ClassTargets:
        """The targets of a classifier of these classes."""
        return cls({category_id: number for number, (category_id, _) in enumerate(spec.categories)})

    def __call__(self, record: ImageRecord, geometry: Geometry) -> Target:
        if record.class_id is None:
            raise ValueError(f"the image {record.file_name} has no class")
        classes = np.zeros(len(self.class_of), dtype=np.float32)
        classes[self.class_of[record.class_id]] = 1
        return {"classes": classes, "extent": np.array(geometry.out[::-1], dtype=np.int64)}


def _visible(instances: Sequence[Instance], geometry: Geometry) -> tuple[list[Instance], np.ndarray]:
    """The objects of which a pixel or more in width and height stays in the frame, and their boxes (N, 4) there."""
    boxes = geometry.boxes(np.array([one.box_xyxy for one in instances], dtype=np.float64))
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= _SMALLEST_BOX)
    return [instances[int(number)] for number in kept], boxes[kept]


TARGETS: dict[str, Callable[[ModelSpec], TargetRule]] = {
    "detect": BoxTargets.of,
    "multilabel": LabelTargets.of,
    "classify": ClassTargets.of,
}
"""The rule of each task in `sptcore.tasks.TASKS`."""
