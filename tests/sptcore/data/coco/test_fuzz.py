"""Mutated COCO files: an answer that holds or an error of ours, never a crash, a traceback or a mask from nowhere."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from sptcore.data.coco import read, write_subset
from sptcore.data.format import Source
from sptcore.data.rasterize import object_mask, object_pixels
from sptcore.errors import SptError
from tests.support.miniatures import coco_document, write_coco_file

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2.5, -0.0, 1e300, -1e9, 1e9, 2**31, 2**63, 2**70, 65536),
    *("", "x", "7", "é", "../x", "/x", "a\x00b"),
    *([], {}, [[]], [[[]]], [0], [1, 2, 3], [1, 2, 3, 4], ["1", "2"], [float(2**40)] * 4),
    *([[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6]], [[0, 0, 40, 0, 40, 30, 0, 30]]),
    {"size": [30, 40]},
    {"size": [200000, 200000], "counts": [1]},
    *({"size": [30, 40], "counts": counts} for counts in ("0", "PPYo00000", [600, 600], [1200], [0, 0, 0, 1200])),
]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every path into a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def mutated(draw: random.Random) -> Any:
    """The miniature with one to three values replaced, removed, repeated or moved."""
    document = coco_document()
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(places(document)[1:])
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        kind = draw.random()
        if kind < 0.55:
            parent[path[-1]] = copy.deepcopy(draw.choice(ODD_VALUES))
        elif kind < 0.75:
            del parent[path[-1]]
        elif kind < 0.9 and isinstance(parent, list):
            parent.insert(draw.randrange(len(parent) + 1), copy.deepcopy(draw.choice(parent)))
        else:
            value = parent[path[-1]]
            if isinstance(value, int | float) and not isinstance(value, bool):
                parent[path[-1]] = value * draw.choice([-1, 0.5, 3, 1000, 1e7])
    return document


def spoilt(draw: random.Random) -> bytes:
    """The text of a document with bytes changed, lost or doubled."""
    text = bytearray(json.dumps(mutated(draw) if draw.random() < 0.3 else coco_document(), ensure_ascii=False).encode())
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text))
        kind = draw.random()
        if kind < 0.6:
            text[at] = draw.choice(b'0123456789-+.eE[]{},:" nulltrue\xff\xc3\x00')
        elif kind < 0.8:
            del text[at : at + draw.randint(1, 30)]
        else:
            text[at:at] = text[max(0, at - draw.randint(1, 40)) : at]
    return bytes(text)


def check(path: Path, out: Path, counts: dict[str, int]) -> None:
    """Read, measure and cut one file."""
    try:
        index = read(Source("fuzz", "coco", path.parent, path), "train")
    except SptError as error:
        counts["refused"] += 1
        counts["unnamed"] += str(path) not in str(error)
        return
    counts["dropped"] += bool(index.dropped)
    for record in index.records:
        mask = object_mask(record)
        assert mask.shape == (record.height, record.width)
        assert object_pixels(record) == mask.sum() <= record.height * record.width
        for one in record.instances:
            x1, y1, x2, y2 = one.box_xyxy
            assert 0 <= x1 < x2 <= record.width
            assert 0 <= y1 < y2 <= record.height
            if one.segmentation is None:
                left, top, right, bottom = (math.ceil(edge - 0.5) for edge in one.box_xyxy)
                assert mask[top:bottom, left:right].all()
    (written,) = write_subset(index, {record.image_id for record in index.records}, out)
    again = read(Source("again", "coco", out, written), "train")
    assert again.records == index.records
    assert all(fault.entry < 0 for fault in again.dropped)


@pytest.mark.parametrize("maker", [mutated, spoilt])
def test_mutated_files(tmp_path: Path, maker) -> None:
    counts = {"refused": 0, "unnamed": 0, "dropped": 0}
    path, out = tmp_path / "annotations" / "instances_train2017.json", tmp_path / "out"
    out.mkdir()
    for seed in range(800):
        document = maker(random.Random(seed))
        write_coco_file(path, document)
        try:
            check(path, out, counts)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {document!r}") from error
    assert counts["unnamed"] == 0
    assert counts["refused"] > 100
    assert counts["dropped"] > 5
