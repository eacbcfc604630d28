"""The sample set as BDD100K lays it out, with boxes (det_20) and outlines, run lengths and bitmasks (ins_seg).

The classes stand in the file's `config`, as Scalabel allows (https://doc.scalabel.ai/format.html).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sptcore.data.sample.outline import mask_counts, mask_polygons
from sptcore.data.sample.pictures import write_jpeg, write_png
from sptcore.data.sample.scene import CLASSES, Scene, SceneObject

CROWD_BIT = 2


def write_bdd(folder: Path, split: str, scenes: list[Scene], first_id: int) -> None:
    """Write `split` ("train" or "val") into `folder`: the same pictures as `100k` and as `10k`, and their labels."""
    pictures, twins = (folder / "images" / kind / split for kind in ("100k", "10k"))
    bitmasks = folder / "labels" / "ins_seg" / "bitmasks" / split
    for place in (pictures, twins, bitmasks):
        place.mkdir(parents=True)
    boxes, outlines = [], []
    for image_id, scene in enumerate(scenes, first_id):
        name = f"{image_id:08x}-00000000"
        write_jpeg(pictures / f"{name}.jpg", scene.image)
        _link(pictures / f"{name}.jpg", twins / f"{name}.jpg")
        write_png(bitmasks / f"{name}.png", _bitmask(scene))
        head = {"name": f"{name}.jpg", "attributes": {"scene": "toys"}, "timestamp": 10000}
        labels = [_label(thing, number) for number, thing in enumerate(scene.objects)]
        boxes.append({**head, "labels": [{**label, "box2d": _box(thing)} for label, thing in _pairs(labels, scene)]})
        outlines.append({**head, "labels": [{**label, **_outline(thing)} for label, thing in _pairs(labels, scene)]})
    size = scenes[0].image.shape
    _write(folder / "labels" / "det_20" / f"det_{split}.json", boxes, size)
    _write(folder / "labels" / "ins_seg" / "polygons" / f"ins_seg_{split}.json", outlines, size)


def _pairs(labels: list[dict], scene: Scene) -> zip:
    return zip(labels, scene.objects, strict=True)


def _write(path: Path, frames: list[dict], size: tuple[int, ...]) -> None:
    config = {
        "imageSize": {"width": size[1], "height": size[0]},
        "categories": [{"name": name} for name in CLASSES],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps({"frames": frames, "config": config}, separators=(",", ":")).encode())


def _label(thing: SceneObject, number: int) -> dict[str, Any]:
    return {"id": str(number), "category": thing.category, "attributes": {"crowd": thing.is_crowd}}


def _box(thing: SceneObject) -> dict[str, int]:
    """The corner pixels, both inside."""
    x1, y1, x2, y2 = thing.box_xyxy
    return {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1}


def _outline(thing: SceneObject) -> dict[str, Any]:
    if thing.is_crowd:
        return {"rle": {"counts": mask_counts(thing.mask), "size": list(thing.mask.shape)}}
    parts = []
    for flat in mask_polygons(thing.mask):
        vertices = [flat[k : k + 2] for k in range(0, len(flat), 2)]
        parts.append({"vertices": vertices, "types": "L" * len(vertices), "closed": True})
    return {"poly2d": parts}


def _bitmask(scene: Scene) -> np.ndarray:
    """R the class, G attribute bits, B * 256 + A the number of the object."""
    pixels = np.zeros((*scene.image.shape[:2], 4), np.uint8)
    for number, thing in enumerate(scene.objects, 1):
        bits = CROWD_BIT if thing.is_crowd else 0
        pixels[thing.mask] = (CLASSES.index(thing.category) + 1, bits, number >> 8, number & 255)
    return pixels


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
