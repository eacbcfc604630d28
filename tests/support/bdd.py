"""A BDD100K folder of a few frames, built in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from sptcore.data import FORMATS
from sptcore.data.format import ReadOptions, Source
from sptcore.data.records import DatasetIndex


def box_label(category: str, x1: float, y1: float, x2: float, y2: float, **more: Any) -> dict:
    """A label with a box2d, whose corners are both inside."""
    return {"category": category, "box2d": {"x1": x1, "y1": y1, "x2": x2, "y2": y2}, **more}


def poly_label(category: str, *polygons: list, types: str | None = None, closed: bool = True, **more: Any) -> dict:
    """A label with a poly2d of vertex lists."""
    parts = [{"vertices": p, "types": types or "L" * len(p), "closed": closed} for p in polygons]
    return {"category": category, "poly2d": parts, **more}


def make_bdd(
    root: Path,
    content: Any,
    *,
    file: str = "labels/det_20/det_train.json",
    images: dict[str, tuple[int, int]] | None = None,
) -> Path:
    """Write `content` (JSON text, or what becomes it) as the label file and grey images; returns the label file."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    folder = root / "images" / "100k" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in (images or {}).items():
        Image.new("RGB", size, (90, 90, 90)).save(folder / name)
    return path


def read_bdd(root: Path, split: str = "train", annotation: Path | None = None, **options: Any) -> DatasetIndex:
    """A split of the set at `root`; `options` are fields of ReadOptions."""
    return FORMATS["bdd"].read(Source("bdd", "bdd", root, annotation, options=ReadOptions(**options)), split)


def read_frames(root: Path, content: Any, **options: Any) -> DatasetIndex:
    """`content` written as the label file of `root` and read."""
    make_bdd(root, content)
    return read_bdd(root, **options)
