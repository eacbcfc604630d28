"""COCO JSON as typed structs, https://cocodataset.org/#format-data, and the limits on what is taken from it.

Identifiers and sizes are strict: a fault there is a fault of the file. What can be wrong in one annotation only (box,
segmentation) is tried strictly first and picked apart only when that fails.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

MAX_SIDE = 65_535
MAX_PIXELS = 100_000_000
MAX_ANNOTATIONS = 10_000_000
MAX_POLYGON_NUMBERS = 2_000_000  # a million vertices
MAX_OUTLINE = 10_000_000  # points pycocotools walks along a polygon: bounds its memory and time

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]


class ImageEntry(Struct, frozen=True, gc=False):
    """An entry of `images`."""

    id: Id
    file_name: str
    width: Side
    height: Side


class CategoryEntry(Struct, frozen=True, gc=False):
    """An entry of `categories`."""

    id: Id
    name: str


class AnnotationHead(Struct, frozen=True, gc=False):
    """What must be right in every entry of `annotations`."""

    id: Id
    image_id: Id
    category_id: Id


class RunLengths(Struct, frozen=True, gc=False):
    """A run-length segmentation, `size` is [height, width]."""

    counts: list[int] | str
    size: tuple[int, int]


class Annotation(AnnotationHead, frozen=True, gc=False):
    """An entry of `annotations` without a fault of type."""

    bbox: tuple[float, float, float, float] | None = None
    segmentation: list[list[float]] | RunLengths | None = None
    iscrowd: int | bool | None = 0
    area: float | None = None


class LooseAnnotation(AnnotationHead, frozen=True, gc=False):
    """The same entry, its parts not looked at yet."""

    bbox: Raw = Raw()
    segmentation: Raw = Raw()
    iscrowd: Raw = Raw()
    area: Raw = Raw()


def coordinate_limit(width: int, height: int) -> int:
    """How far from the origin a coordinate may lie; pycocotools crashes on what is much larger."""
    return 4 * max(width, height) + 1000
