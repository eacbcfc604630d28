"""From an image's annotations to its entry in the store, and from a data set to the header of its store."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec
import numpy as np

from sptcore import __version__
from sptcore.data.padding import NO_PADDING, image_mask
from sptcore.data.rasterize import PixelRule, counted_instances, object_pixels, touch_mask
from sptcore.data.records import DatasetIndex, ImageRecord, Instance
from sptcore.errors import DataError, did_you_mean
from sptcore.labels.pyramid import DEFAULT_STRIDES, checked_strides
from sptcore.labels.store import Flag, LabelEntry, StoreHeader
from sptcore.labels.store.schema import WHOLE

LabelSource = Literal["auto", "boxes", "masks", "image"]
SOURCES: tuple[str, ...] = get_args(LabelSource)
BOX_CONVENTION = "half-open pixels; labels: pixels a box touches; object_pixels: pixels whose centre it holds"
_SHOWN = 5


@dataclass(frozen=True)
class Recipe:
    """What the labels of an image are made from.

    `source`: "auto" takes an object's mask and its box where there is none, "masks" and "boxes" only these; "image" is
    for classification on a black canvas (IN-S): the label is where the image itself lies, `padding` the canvas.
    Raises ValueError for unknown sources and for strides that are no powers of two.
    """

    strides: tuple[int, ...] = DEFAULT_STRIDES
    source: LabelSource = "auto"
    padding: tuple[int, int] = NO_PADDING

    @classmethod
    def of(cls, index: DatasetIndex, strides: Iterable[int], source: LabelSource) -> Recipe:
        """The recipe for a data set: on a padded one "auto" is "image", the paper's label for it.

        Raises DataError for masks of a set without masks, and for the image's place on a canvas where there is none.
        """
        padded = index.padding != NO_PADDING
        recipe = cls(tuple(strides), "image" if source == "auto" and padded else source, index.padding)
        where = str(index.annotation_path)
        if recipe.source == "masks" and not index.has_masks:
            raise DataError("the data set has no masks", where=where, hint="use --from boxes, or auto")
        if recipe.source == "image" and not padded:
            hint = "cut it with spt make-sparse --pad 2x2 first, or use --from boxes"
            raise DataError("the images do not lie on a padded canvas", where=where, hint=hint)
        return recipe

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", checked_strides(self.strides))
        if self.source not in SOURCES:
            hint = did_you_mean(self.source, SOURCES) or f"one of {', '.join(SOURCES)}"
            raise ValueError(f"labels cannot come from {self.source!r}: {hint}")

    @property
    def rule(self) -> PixelRule:
        """Which pixels count as object."""
        return PixelRule(ratio_from="boxes" if self.source == "image" else self.source)

    def params(self, index: DatasetIndex) -> dict[str, object]:
        """Everything that decides the content of the store, besides the annotations themselves."""
        rule = self.rule
        return {
            "source": self.source,
            "split": index.split,
            "strides": list(self.strides),
            "padding": list(self.padding),
            "crowd": rule.crowd,
            "difficult": rule.difficult,
            "void": rule.void,
        }

    def header(self, index: DatasetIndex, part: str = WHOLE) -> StoreHeader:
        """The header of the store of `index`."""
        sha256, size = fingerprint(index)
        return StoreHeader(
            tool_version=__version__,
            source_format=index.format,
            source_sha256=sha256,
            source_bytes=size,
            params_json=json.dumps(self.params(index), sort_keys=True, separators=(",", ":")),
            ratio_from=self.source,
            crowd=self.rule.crowd,
            box_convention=BOX_CONVENTION,
            strides=self.strides,
            part=part,
        )

    def entry(self, record: ImageRecord, *, repaired: bool = False) -> LabelEntry:
        """Mask, counts and flags of one image; `repaired`: some of its annotations were left out.

        Raises DataError for a mask picture that is missing or wrong.
        """
        if self.source == "image":
            mask = image_mask(record, self.padding)
            flags = Flag.REPAIRED if repaired else Flag(0)
            return LabelEntry(record.image_id, record.file_name, mask, int(np.count_nonzero(mask)), 1, flags)
        instances = counted_instances(record, self.rule)
        mask = touch_mask(record, self.rule)
        by_box = [self.source == "boxes" or instance.segmentation is None for instance in instances]
        touched = int(np.count_nonzero(mask))
        pixels = object_pixels(record, self.rule) if any(by_box) else touched
        flags = _flags(instances, touched, only_boxes=bool(by_box) and all(by_box))
        flags |= Flag.REPAIRED if repaired else Flag(0)
        return LabelEntry(record.image_id, record.file_name, mask, pixels, len(instances), flags)


def _flags(instances: list[Instance], touched: int, *, only_boxes: bool) -> Flag:
    flags = Flag(0)
    if not touched:
        flags |= Flag.EMPTY
    if any(instance.is_crowd for instance in instances):
        flags |= Flag.CROWD
    if only_boxes:
        flags |= Flag.BOX_ONLY
    return flags


def fingerprint(index: DatasetIndex) -> tuple[str, int]:
    """SHA-256 of the annotations of `index` and the size in bytes of its annotation file (0 for a folder).

    A reader that gives none has its records hashed instead.
    """
    path = index.annotation_path
    size = path.stat().st_size if path.is_file() else 0
    if index.source_sha256:
        return index.source_sha256, size
    return hashlib.sha256(msgspec.msgpack.encode(index.records, enc_hook=str)).hexdigest(), size


def repaired_images(index: DatasetIndex) -> frozenset[int]:
    """The images some of whose annotations were left out."""
    return frozenset(dropped.image_id for dropped in index.dropped) - {-1}


def image_set_digest(index: DatasetIndex) -> str:
    """SHA-256 over id, size and number of objects of every image in order: what options of reading can change."""
    rows = [(r.image_id, r.width, r.height, len(r.instances)) for r in index.records]
    return hashlib.sha256(np.array(rows, dtype=np.int64).tobytes()).hexdigest()


def report_of(index: DatasetIndex) -> bytes:
    """What the reader left out or clipped, by cause, with the first few places: the store's report, as JSON."""
    causes = Counter(dropped.cause for dropped in index.dropped)
    dropped = {
        cause: {
            "count": count,
            "first": [f"{d.where} {d.detail}".strip() for d in index.dropped if d.cause == cause][:_SHOWN],
        }
        for cause, count in causes.items()
    }
    report = {"dropped": dropped, "counts": dict(index.counts)}
    return json.dumps(report, sort_keys=True, separators=(",", ":")).encode()
