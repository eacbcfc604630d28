"""The sample set as COCO 2017 writes it: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
from pathlib import Path

from sptcore.data.sample.outline import mask_counts, mask_polygons
from sptcore.data.sample.pictures import write_png
from sptcore.data.sample.scene import CLASSES, Scene, SceneObject

INFO = {
    "description": "spt built-in sample set",
    "url": "",
    "version": "1.0",
    "year": 2025,
    "contributor": "drawn by spt",
    "date_created": "2025/01/01",
}
LICENCES = [{"url": "https://creativecommons.org/publicdomain/zero/1.0/", "id": 1, "name": "CC0 1.0"}]


def write_coco(folder: Path, split: str, scenes: list[Scene], first_id: int) -> None:
    """Write `split` ("train" or "val") into `folder`: images as PNG, annotations as JSON of integers only."""
    images, annotations = [], []
    picture_folder = folder / f"{split}2017"
    picture_folder.mkdir(parents=True)
    for image_id, scene in enumerate(scenes, first_id):
        height, width = scene.image.shape[:2]
        name = f"{image_id:012d}.png"
        write_png(picture_folder / name, scene.image)
        images.append({"license": 1, "file_name": name, "height": height, "width": width, "id": image_id})
        for thing in scene.objects:
            annotations.append(_annotation(thing, image_id, first_id * 1000 + len(annotations)))
    (folder / "annotations").mkdir(exist_ok=True)
    categories = [{"supercategory": "toy", "id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    content = {"info": INFO, "licenses": LICENCES, "images": images, "annotations": annotations}
    content["categories"] = categories
    text = json.dumps(content, separators=(",", ":"))
    (folder / "annotations" / f"instances_{split}2017.json").write_bytes(text.encode())


def _annotation(thing: SceneObject, image_id: int, annotation_id: int) -> dict:
    x1, y1, x2, y2 = thing.box_xyxy
    segmentation: object = mask_polygons(thing.mask)
    if thing.is_crowd:
        segmentation = {"counts": mask_counts(thing.mask), "size": list(thing.mask.shape)}
    return {
        "segmentation": segmentation,
        "area": thing.area,
        "iscrowd": int(thing.is_crowd),
        "image_id": image_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "category_id": CLASSES.index(thing.category) + 1,
        "id": annotation_id,
    }
