"""A synthetic set of annotations of the size and make-up of PASCAL VOC 2012, drawn from a seed.

Full size: 17,125 XML files of about two objects, boxes 1-based and inclusive, and the lists of ImageSets/Main.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FULL_IMAGES, OBJECTS_AN_IMAGE = 17_125, 2.3
WIDTH, HEIGHT = 500, 375
CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow")


def write_synthetic(root: Path, images: int = FULL_IMAGES, seed: int = 7) -> Path:
    """Write Annotations/ and ImageSets/Main/train.txt below `root`/VOCdevkit/VOC2012; returns that folder."""
    draw = np.random.default_rng(seed)
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / name).mkdir(parents=True)
    names = [f"2012_{number:06d}" for number in range(images)]
    for name, count in zip(names, draw.poisson(OBJECTS_AN_IMAGE, images), strict=True):
        (base / "Annotations" / f"{name}.xml").write_text(_document(draw, name, int(count)), encoding="ascii")
    (base / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names) + "\n", encoding="ascii")
    return base


def _document(draw: np.random.Generator, name: str, count: int) -> str:
    objects = "".join(_object(draw) for _ in range(count))
    return (
        f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{name}.jpg</filename>\n"
        f"\t<size>\n\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _object(draw: np.random.Generator) -> str:
    x1, x2 = sorted(draw.integers(1, WIDTH + 1, 2).tolist())
    y1, y2 = sorted(draw.integers(1, HEIGHT + 1, 2).tolist())
    return (
        f"\t<object>\n\t\t<name>{CLASSES[int(draw.integers(0, len(CLASSES)))]}</name>\n\t\t<pose>Unspecified</pose>\n"
        "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{x1}</xmin>\n\t\t\t<ymin>{y1}</ymin>\n\t\t\t<xmax>{x2}</xmax>\n\t\t\t<ymax>{y2}</ymax>\n"
        "\t\t</bndbox>\n\t</object>\n"
    )
