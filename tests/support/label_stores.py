"""Small label stores with known content, and files that look like one but are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sptcore.labels.store import Flag, LabelEntry, LabelStore, LabelWriter, StoreHeader, schema
from tests.support.miniatures import write_coco_file

SIZES = [(1, 1), (31, 33), (1, 4000), (48, 64), (100, 75), (427, 640)]


def header(strides: tuple[int, ...] = (8, 16, 32), part: str = "1/1") -> StoreHeader:
    """A header with made-up provenance."""
    return StoreHeader(
        tool_version="0.0-test",
        source_format="coco",
        source_sha256="ab" * 32,
        source_bytes=1234,
        params_json='{"source":"auto"}',
        ratio_from="auto",
        crowd="include",
        box_convention="half-open",
        strides=strides,
        part=part,
    )


def entries(count: int, seed: int = 0) -> Iterator[LabelEntry]:
    """`count` images of awkward sizes with blobs, some empty, some full; ids neither dense nor in order."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * count)[:count]
    for number, image_id in enumerate(ids.tolist()):
        height, width = SIZES[number % len(SIZES)]
        mask = np.zeros((height, width), np.uint8)
        for _ in range(int(rng.integers(0, 4))):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            mask[y : y + int(rng.integers(1, 40)), x : x + int(rng.integers(1, 40))] = 1
        if number == 7:
            mask[:] = 1
        pixels = int(mask.sum())
        flags = Flag(0 if pixels else Flag.EMPTY)
        yield LabelEntry(image_id, f"dir/é {number}\n.jpg", mask, pixels, number % 3, flags)


def write_store(path: Path, count: int = 12, seed: int = 0, **header_fields: Any) -> list[LabelEntry]:
    """A store at `path`; what is in it."""
    content = list(entries(count, seed))
    with LabelWriter(path, header(**header_fields), report=b'{"dropped":{"empty box":2}}') as writer:
        for entry in content:
            writer.add(entry)
    return content


def everything(store: LabelStore) -> list[tuple[Any, ...]]:
    """All that can be read of a store, for comparison."""
    result: list[tuple[Any, ...]] = [tuple(sorted(store.attrs.items())), (store.report_bytes,)]
    for image_id in store.image_ids.tolist():
        grids = store.levels(image_id).grids
        levels = tuple((stride, grid.shape, grid.tobytes()) for stride, grid in grids.items())
        result.append((store.image(image_id), store.mask(image_id).tobytes(), *levels))
    return result


def forge(source: Path, target: Path, change: Callable[[h5py.File], object], *, reseal: bool = True) -> None:
    """A copy of a store with something changed in it, the work of a hostile author.

    Its seal is made to fit again, unless what was changed cannot be sealed at all.
    """
    with h5py.File(source, "r") as old, h5py.File(target, "w", libver=("v108", "v110")) as new:
        for name, value in old.attrs.items():
            new.attrs[name] = value
        for name in ("image", "mask", "levels", "report"):
            old.copy(name, new)
        change(new)
        if reseal:
            with suppress(AttributeError, KeyError, TypeError, ValueError, OSError):
                new.attrs["index_sha256"] = np.bytes_(_seal_of(new).encode())


def _seal_of(file: h5py.File) -> str:
    attributes = {name: file.attrs[name].decode() for name in schema.ATTRIBUTES}
    strides = tuple(int(stride) for stride in attributes["strides"].split(","))
    index = {name: file[name][:] for name in schema.index_names(strides)}
    return schema.seal(attributes, index, file["report/json"][:].tobytes())


def coco_set(root: Path, count: int, seed: int = 0) -> Path:
    """A COCO train set of `count` images without picture files: polygons, crowds, boxes only, empty images."""
    rng = np.random.default_rng(seed)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for number in range(count):
        width, height = (int(side) for side in rng.integers(20, 90, 2))
        image_id = 3 * number + 1
        document["images"].append({"id": image_id, "file_name": f"{number:04d}.png", "width": width, "height": height})
        for _ in range(int(rng.integers(0, 4))):
            document["annotations"].append(_annotation(rng, len(document["annotations"]) + 1, image_id, width, height))
    return write_coco_file(root / "annotations" / "instances_train2017.json", document).parents[1]


def _annotation(rng: np.random.Generator, number: int, image_id: int, width: int, height: int) -> dict[str, Any]:
    x, y = float(rng.uniform(0, width - 8)), float(rng.uniform(0, height - 8))
    w, h = float(rng.uniform(3, width - x)), float(rng.uniform(3, height - y))
    made = {"id": number, "image_id": image_id, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
    if number % 3 == 0:
        return made | {"segmentation": []}
    if number % 7 == 0:
        first = int(rng.integers(0, width * height - 60))
        counts = [first, 50, width * height - first - 50]
        return made | {"iscrowd": 1, "segmentation": {"size": [height, width], "counts": counts}}
    return made | {"segmentation": [[x, y, x + w, y, x + w / 2, y + h]]}
