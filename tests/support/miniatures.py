"""Data sets of three images, built in code: every object's pixel count can be worked out by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

CATEGORIES = [{"id": 0, "name": "cup", "supercategory": "kitchen"}, {"id": 3, "name": "café ☕"}]

# Image 7 is 40x30 with a mask of 100 pixels, a crowd of 60 of which 20 lie in the mask, and a box; image 2 is 30x20
# with a box of 150 pixels and no mask; image 5 is 16x16 and empty.
IMAGES = [
    {"id": 7, "file_name": "seven.png", "width": 40, "height": 30, "license": 1},
    {"id": 2, "file_name": "sub folder/two é.jpg", "width": 30, "height": 20},
    {"id": 5, "file_name": "-five.png", "width": 16, "height": 16, "date_captured": "2013-11-14 11:18:45"},
]
ANNOTATIONS = [
    {
        "id": 11,
        "image_id": 7,
        "category_id": 0,
        "bbox": [10, 5, 10, 10],
        "area": 100.0,
        "iscrowd": 0,
        "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]],
    },
    {"id": 12, "image_id": 2, "category_id": 3, "bbox": [5.0, 4.0, 15.0, 10.0], "area": 150, "segmentation": []},
    {
        "id": 0,
        "image_id": 7,
        "category_id": 3,
        "bbox": [18, 5, 6, 10],
        "area": 60,
        "iscrowd": 1,
        "segmentation": {"size": [30, 40], "counts": [18 * 30 + 5, *[10, 20] * 5, 10, 16 * 30 + 15]},
    },
    {"id": 14, "image_id": 7, "category_id": 3, "bbox": [30, 20, 4, 5], "area": 20, "iscrowd": 0, "note": "unknown"},
]
SEVEN_UNION = 100 + 60 - 20 + 20
SEVEN_BOXES = 100 + 60 - 20 + 20
TWO_UNION = 150


def coco_document() -> dict[str, Any]:
    """A fresh COCO document of the three images, to be changed at will."""
    return copy.deepcopy(
        {
            "info": {"description": "miniature", "year": 2026},
            "licenses": [{"id": 1, "name": "none"}],
            "images": IMAGES,
            "annotations": ANNOTATIONS,
            "categories": CATEGORIES,
            "own_key": {"kept": [1, 2.50, "x"]},
        }
    )


def write_coco_file(path: Path, document: Any) -> Path:
    """Write `document` (or bytes as they are) as an annotation file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
    path.write_bytes(text)
    return path


def mini_coco(
    root: Path, document: dict[str, Any] | None = None, *, splits: tuple[str, ...] = ("train", "val")
) -> Path:
    """A COCO set at `root` in the official layout with real image files; returns `root`."""
    document = document or coco_document()
    for split in splits:
        write_coco_file(root / "annotations" / f"instances_{split}2017.json", document)
        for image in document["images"]:
            write_picture(root / f"{split}2017" / image["file_name"], image["width"], image["height"])
    return root


def write_picture(path: Path, width: int, height: int, **save: Any) -> Path:
    """A picture with a gradient, so that no two pixels of a row are alike; its suffix tells the format."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(width, height)).save(path, **save)
    return path


def picture(width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3): red grows to the right, green downwards, blue is constant."""
    red = np.linspace(0, 255, width, dtype=np.uint8)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height, dtype=np.uint8)[:, None].repeat(width, 1)
    return np.dstack([red, green, np.full_like(red, 90)])
