"""Scalabel's label format as typed structs: https://doc.scalabel.ai/format.html.

A frame's name and sizes are strict; what can be wrong in one label only is picked apart when the strict reading fails.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

Side = Annotated[int, Meta(ge=1, le=65_535)]
Flag = bool | int | float | str | None


class ImageSize(Struct, frozen=True, gc=False):
    """Pixels of a frame."""

    width: Side
    height: Side


class Box2D(Struct, frozen=True, gc=False):
    """Corners; x2 and y2 are the last pixel inside."""

    x1: float
    y1: float
    x2: float
    y2: float


class Poly2D(Struct, frozen=True, gc=False):
    """A polygon or line; `types` has a letter a vertex, L for a corner, C for a control point of a Bezier curve."""

    vertices: list[tuple[float, float]]
    types: str | None = None
    closed: bool = True


class RunLengths(Struct, frozen=True, gc=False):
    """COCO run lengths, `size` is [height, width]."""

    counts: str | list[int]
    size: tuple[int, int]


class Attributes(Struct, frozen=True, gc=False):
    """The attributes that bear on what counts as an object."""

    crowd: Flag = None
    ignored: Flag = None


class Label(Struct, frozen=True, gc=False):
    """One label; the polygons are decoded only when the label is an object."""

    category: str | None = None
    box2d: Box2D | None = None
    attributes: Attributes | None = None
    poly2d: Raw = Raw()
    rle: Raw = Raw()


class Frame(Struct, frozen=True, gc=False):
    """One image and its labels."""

    name: str
    labels: list[Label] | None = None
    size: ImageSize | None = None


class LooseFrame(Struct, frozen=True, gc=False):
    """The same with its labels not looked at yet."""

    name: str
    labels: list[Raw] | None = None
    size: ImageSize | None = None


class FrameHead(Struct, frozen=True, gc=False):
    """What must be right in every frame."""

    name: str
    size: ImageSize | None = None


class ConfigCategory(Struct, frozen=True):
    """A class or a group of classes."""

    name: str
    subcategories: list[ConfigCategory] | None = None


class Config(Struct, frozen=True):
    """The `config` of a data set: its classes, and the size of all its images."""

    categories: list[ConfigCategory] | None = None
    imageSize: ImageSize | None = None


def leaf_names(categories: list[ConfigCategory]) -> list[str]:
    """The names of the classes that have no classes below them, in order."""
    names = []
    for category in categories:
        names += leaf_names(category.subcategories) if category.subcategories else [category.name]
    return names
