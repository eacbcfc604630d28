"""The figures of a block of images, gathered in any process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sptcore.data.format import Block
from sptcore.data.padding import NO_PADDING
from sptcore.data.prepare.inspect import image_fault
from sptcore.data.rasterize import PixelRule, counted_instances, object_pixels
from sptcore.data.records import ImageRecord, Instance


class Complaint(msgspec.Struct, frozen=True):
    """Something wrong with one image or annotation: `kind` is one of a few fixed words."""

    kind: str
    what: str
    detail: str = ""


class BlockFigures(msgspec.Struct, frozen=True):
    """A block: ratios as (object pixels, image pixels), objects an image, object sides, both counts by category id.

    A side is the square root of the box's area, in pixels.
    """

    ratios: list[tuple[int, int]]
    objects: list[int]
    sides: list[float]
    class_objects: Counter[int]
    class_images: Counter[int]
    complaints: list[Complaint]
    counts: dict[str, int]


@dataclass(frozen=True)
class Gauge:
    """How blocks are measured. Image files are looked at where `image_root` is not None."""

    rule: PixelRule
    image_root: Path | None = None
    padding: tuple[int, int] = NO_PADDING
    follow_symlinks: bool = False

    def __call__(self, block: Block) -> BlockFigures:
        """The figures of `block`. Raises DataError for a mask picture that is missing or wrong."""
        loaded = block.load()
        counted = [counted_instances(record, self.rule) for record in loaded.records]
        complaints = [Complaint(fault.cause, fault.where, fault.detail) for fault in loaded.dropped]
        if self.image_root is not None:
            complaints += [found for record in loaded.records if (found := self._image(self.image_root, record))]
        return BlockFigures(
            ratios=[(object_pixels(record, self.rule), record.width * record.height) for record in loaded.records],
            objects=[len(instances) for instances in counted],
            sides=[_side(instance) for instances in counted for instance in instances],
            class_objects=Counter(one.category_id for instances in counted for one in instances),
            class_images=Counter(number for instances in counted for number in {one.category_id for one in instances}),
            complaints=complaints,
            counts=dict(loaded.counts),
        )

    def _image(self, root: Path, record: ImageRecord) -> Complaint | None:
        fault = image_fault(root, record, padding=self.padding, follow_symlinks=self.follow_symlinks)
        return None if fault is None else Complaint(fault[0], record.file_name, fault[1])


def _side(instance: Instance) -> float:
    x1, y1, x2, y2 = instance.box_xyxy
    return ((x2 - x1) * (y2 - y1)) ** 0.5
