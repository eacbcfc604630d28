"""A synthetic annotation file of the size and make-up of COCO's instances_train2017.json, drawn from a seed.

Full size: 118,287 images, 860,001 annotations (1 % crowds as uncompressed RLE, 1 % of the images empty), about
450 MB. Object sizes are log-normal with the median and mean of the real set; polygons have 4 to 60 corners written
with two decimals; an image's annotations are scattered over the file in runs, as in the real one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FULL_IMAGES, FULL_ANNOTATIONS = 118_287, 860_001
SIZES = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (640, 640))


def write_synthetic(path: Path, images: int = FULL_IMAGES, seed: int = 7) -> Path:
    """Write the file at `path`, with annotations in proportion to `images`; the same bytes for the same arguments."""
    draw = np.random.default_rng(seed)
    annotations = round(images * FULL_ANNOTATIONS / FULL_IMAGES)
    sizes = [SIZES[k] for k in draw.integers(0, len(SIZES), images)]
    owner = np.sort(draw.integers(0, images - max(1, images // 100), annotations))
    order = np.argsort(draw.random(images)[owner], kind="stable")
    with path.open("w", encoding="ascii") as out:
        out.write(
            '{"info": {"description": "synthetic", "year": 2017}, "licenses": [{"id": 1, "name": "none"}], "images": ['
        )
        out.write(", ".join(_image(k, size) for k, size in enumerate(sizes)))
        out.write('], "annotations": [')
        for position, k in enumerate(order):
            image = int(owner[k])
            out.write(", " if position else "")
            out.write(_annotation(draw, int(k) + 1, image, *sizes[image]))
        categories = [{"supercategory": "thing", "id": c, "name": f"class {c}"} for c in range(1, 81)]
        out.write(f'], "categories": {json.dumps(categories)}}}')
    return path


def _image(k: int, size: tuple[int, int]) -> str:
    name = f"{k + 1:012d}.jpg"
    return json.dumps(
        {
            "license": 1,
            "file_name": name,
            "coco_url": f"http://images.example.org/train2017/{name}",
            "height": size[1],
            "width": size[0],
            "date_captured": "2013-11-14 11:18:45",
            "id": k + 1,
        }
    )


def _annotation(draw: np.random.Generator, number: int, image: int, width: int, height: int) -> str:
    area = min(float(draw.lognormal(7.15, 1.95)), 0.8 * width * height)
    radius = (area / np.pi) ** 0.5
    centre = draw.random(2) * (width, height)
    crowd = draw.random() < 0.01
    if crowd:
        segmentation, box = _crowd(draw, width, height, centre, radius)
    else:
        segmentation, box = _polygons(draw, width, height, centre, radius)
    return (
        f'{{"segmentation": {segmentation}, "area": {area:.4f}, "iscrowd": {int(crowd)}, "image_id": {image + 1}, '
        f'"bbox": [{", ".join(f"{v:.2f}" for v in box)}], "category_id": {1 + number % 80}, "id": {number}}}'
    )


def _polygons(draw, width: int, height: int, centre: np.ndarray, radius: float) -> tuple[str, list[float]]:
    parts, low, high = [], np.array([width, height], float), np.zeros(2)
    for part in range(1 + int(draw.random() < 0.25)):
        corners = int(np.clip(draw.lognormal(2.8, 0.6), 4, 300))
        angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        reach = radius * (0.7 + 0.6 * draw.random(corners)) * (0.5 if part else 1.0)
        points = (centre + part * radius)[:, None] + reach * np.stack([1.2 * np.cos(angle), 0.8 * np.sin(angle)])
        points = np.clip(points, 0, [[width], [height]])
        low, high = np.minimum(low, points.min(1)), np.maximum(high, points.max(1))
        parts.append("[" + ", ".join([f"{v:.2f}" for v in points.T.ravel().tolist()]) + "]")
    size = np.maximum(high - low, 0.5)
    return "[" + ", ".join(parts) + "]", [*low.tolist(), *size.tolist()]


def _crowd(draw, width: int, height: int, centre: np.ndarray, radius: float) -> tuple[str, list[float]]:
    x1, y1 = np.clip(centre - radius, 0, (width - 2, height - 2)).astype(int).tolist()
    x2, y2 = np.clip(centre + radius, (x1 + 1, y1 + 1), (width, height)).astype(int).tolist()
    tall, wide = y2 - y1, x2 - x1
    counts = [x1 * height + y1]
    for _ in range(wide - 1):
        counts += [tall, height - tall]
    counts += [tall, width * height - (x2 - 1) * height - y2]
    body = ", ".join(map(str, counts))
    return f'{{"counts": [{body}], "size": [{height}, {width}]}}', [x1, y1, wide, tall]
