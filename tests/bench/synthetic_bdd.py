"""A synthetic label file of the size and make-up of BDD100K's det_20/det_train.json, drawn from a seed.

Full size: 69,863 frames, about 1.3 million boxes, about 260 MB; 1280 x 720, six-decimal corners, x2 and y2 inclusive.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FULL_FRAMES, BOXES_A_FRAME = 69_863, 18.4
WIDTH, HEIGHT = 1280, 720
CLASSES = (
    "car",
    "traffic sign",
    "traffic light",
    "pedestrian",
    "truck",
    "bus",
    "bicycle",
    "rider",
    "motorcycle",
    "train",
)


def write_synthetic(path: Path, frames: int = FULL_FRAMES, seed: int = 7) -> Path:
    """Write the file at `path`; the same bytes for the same arguments."""
    draw = np.random.default_rng(seed)
    counts = draw.poisson(BOXES_A_FRAME, frames)
    with path.open("w", encoding="ascii") as out:
        out.write("[")
        for number, count in enumerate(counts):
            out.write(", " if number else "")
            out.write(_frame(draw, number, int(count)))
        out.write("]")
    return path


def _frame(draw: np.random.Generator, number: int, count: int) -> str:
    centres = draw.random((count, 2)) * (WIDTH, HEIGHT)
    sides = np.minimum(draw.lognormal(3.9, 1.0, (count, 2)), (WIDTH, HEIGHT))
    low = np.maximum(centres - sides / 2, 0)
    high = np.minimum(centres + sides / 2, (WIDTH - 1, HEIGHT - 1))
    labels = [
        {
            "id": str(place),
            "attributes": {"occluded": False, "truncated": False, "trafficLightColor": "NA"},
            "category": CLASSES[int(kind)],
            "box2d": {"x1": round(x1, 6), "y1": round(y1, 6), "x2": round(x2, 6), "y2": round(y2, 6)},
        }
        for place, (kind, (x1, y1), (x2, y2)) in enumerate(
            zip(draw.integers(0, len(CLASSES), count), low.tolist(), high.tolist(), strict=True)
        )
        if x1 < x2 and y1 < y2
    ]
    attributes = {"weather": "clear", "timeofday": "daytime", "scene": "city street"}
    return json.dumps(
        {"name": f"{number:08x}-synthetic.jpg", "attributes": attributes, "timestamp": 10000, "labels": labels}
    )
