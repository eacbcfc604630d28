"""A PASCAL VOC devkit of a few images, built in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sptcore.data import FORMATS
from sptcore.data.format import ReadOptions, Source
from sptcore.data.records import DatasetIndex

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
    "<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
)


def voc_object(name: str, box: tuple, difficult: int = 0) -> str:
    """An `<object>` with a 1-based inclusive box."""
    return OBJECT.format(name=name, box=box, difficult=difficult)


def voc_xml(body: str, size: str = "<size><width>40</width><height>30</height><depth>3</depth></size>") -> str:
    """An annotation file of an image of 40x30."""
    return f"<annotation><filename>x.jpg</filename>{size}{body}</annotation>"


def make_voc(root: Path, annotations: dict[str, str], lists: dict[str, list[str]] | None = None) -> Path:
    """Write annotations (image name -> XML), grey images of 40x30, lists (default: all in train); returns the year."""
    year = root / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / folder).mkdir(parents=True)
    for name, xml in annotations.items():
        (year / "Annotations" / f"{name}.xml").write_text(xml)
        Image.new("RGB", (40, 30), (90, 90, 90)).save(year / "JPEGImages" / f"{name}.jpg")
    for split, names in (lists or {"train": list(annotations)}).items():
        (year / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return year


def write_palette_mask(path: Path, pixels: np.ndarray) -> None:
    """A palette PNG as VOC has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8), mode="P")
    image.putpalette([value % 256 for value in range(768)])
    image.save(path)


def read_voc(root: Path, split: str = "train", annotation: Path | None = None, **options: Any) -> DatasetIndex:
    """A split of the set at `root`; `options` are fields of ReadOptions."""
    return FORMATS["voc"].read(Source("voc", "voc", root, annotation, options=ReadOptions(**options)), split)
