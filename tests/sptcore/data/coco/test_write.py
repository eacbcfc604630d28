"""A subset is slices of its source: nothing is re-serialised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sptcore.data.coco import read, write_subset
from sptcore.data.format import Source
from sptcore.data.records import DatasetIndex
from sptcore.errors import IntegrityError
from tests.support.miniatures import coco_document, mini_coco, write_coco_file
from tests.support.samples import samples_root

ODD = b"""{
  "images":[
    {"id" : 1, "file_name": "a\\u00e9.png", "width": 8, "height": 8, "x": 1.50e0},
    {"file_name": "b.png" , "id": 2, "width":8,"height":8 }
   ,{"id":3,"file_name":"c.png","width":8,"height":8}  ],
  "annotations": [ {"id":5,"image_id":3,"category_id":1,"bbox":[1.0,1,2.00,2],"note":"\\u2603 \xe2\x98\x83"},
     {"id":6,"image_id":1,"category_id":1,"bbox":[1,1,2,2]},

     {"id":4,"image_id":3,"category_id":1,"bbox":[1,1,-2,2]} , {"id":9,"image_id":3,"category_id":1,"bbox":[0,0,4,4]}
  ]
  , "categories":[{"id":1,"name":"x"}], "later": {"images": [1, 2]}
}
"""


def index_of(tmp_path: Path, content) -> DatasetIndex:
    write_coco_file(tmp_path / "in" / "annotations" / "instances_train2017.json", content)
    return read(Source("mini", "coco", tmp_path / "in"), "train")


def subset(tmp_path: Path, index: DatasetIndex, keep) -> bytes:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    (path,) = write_subset(index, keep, out)
    assert path == out / "annotations" / "instances_train2017.json"
    return path.read_bytes()


def test_everything_kept_is_the_source(tmp_path: Path) -> None:
    sound = ODD.replace(b"[1,1,-2,2]", b"[1,1,+2,2]".replace(b"+", b" "))
    assert subset(tmp_path, index_of(tmp_path, sound), {1, 2, 3}) == sound


def test_kept_entries_and_other_keys_are_the_source_bytes(tmp_path: Path) -> None:
    index = index_of(tmp_path, ODD)
    assert [fault.entry for fault in index.dropped] == [2]
    written = subset(tmp_path, index, {3})
    assert written == (
        b'{\n  "images":[\n    {"id":3,"file_name":"c.png","width":8,"height":8}  ],\n'
        b'  "annotations": [ {"id":5,"image_id":3,"category_id":1,"bbox":[1.0,1,2.00,2],'
        b'"note":"\\u2603 \xe2\x98\x83"} , {"id":9,"image_id":3,"category_id":1,"bbox":[0,0,4,4]}\n  ]'
        b'\n  , "categories":[{"id":1,"name":"x"}], "later": {"images": [1, 2]}\n}\n'
    )
    assert b"b.png" not in written
    written = subset(tmp_path, index, {1, 2})
    assert json.loads(written)["annotations"] == [{"id": 6, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    assert b'"x": 1.50e0' in written
    assert b"a\\u00e9.png" in written


def test_nothing_kept_is_a_valid_empty_set(tmp_path: Path) -> None:  # fault table, row 47
    document = json.loads(subset(tmp_path, index_of(tmp_path, ODD), set()))
    assert (document["images"], document["annotations"]) == ([], [])
    assert document["categories"] == [{"id": 1, "name": "x"}]


def test_arrays_in_another_order(tmp_path: Path) -> None:
    document = coco_document()
    turned = {key: document[key] for key in reversed(document)}
    index = index_of(tmp_path, turned)
    kept = json.loads(subset(tmp_path, index, {7}))
    assert list(kept) == list(turned)
    assert [image["id"] for image in kept["images"]] == [7]
    assert kept["annotations"] == [entry for entry in document["annotations"] if entry["image_id"] == 7]


def test_random_choices_equal_a_filter_of_the_document(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    images = [{"id": k, "file_name": f"{k}.png", "width": 9, "height": 9} for k in draw.permutation(40).tolist()]
    entries = [
        {"id": k, "image_id": int(draw.integers(40)), "category_id": 1, "bbox": [1, 1, 2, 2]} for k in range(200)
    ]
    document = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "x"}]}
    index = index_of(tmp_path, document)
    for _ in range(20):
        keep = set(draw.choice(40, draw.integers(41), replace=False).tolist())
        written = json.loads(subset(tmp_path, index, keep))
        assert written["images"] == [image for image in images if image["id"] in keep]
        assert written["annotations"] == [entry for entry in entries if entry["image_id"] in keep]


def test_a_byte_order_mark_is_not_passed_on(tmp_path: Path) -> None:
    index = index_of(tmp_path, b"\xef\xbb\xbf" + ODD)
    assert subset(tmp_path, index, {1}).startswith(b"{")


def test_a_source_that_changed_is_refused(tmp_path: Path) -> None:  # 56
    index = index_of(tmp_path, ODD)
    write_coco_file(index.annotation_path, ODD + b"\n")
    with pytest.raises(IntegrityError):
        subset(tmp_path, index, {1})


def test_the_real_sample_survives_whole_and_in_part(tmp_path: Path) -> None:
    root = samples_root("coco")
    for split in ("train", "val"):
        index = read(Source("coco", "coco", root), split)
        out = tmp_path / split
        out.mkdir()
        (path,) = write_subset(index, {record.image_id for record in index.records}, out)
        assert path.read_bytes() == index.annotation_path.read_bytes()
        keep = {record.image_id for record in index.records[::3]}
        (path,) = write_subset(index, keep, out)
        again = read(Source("part", "coco", out), split)
        assert again.records == tuple(record for record in index.records if record.image_id in keep)


def test_official_loaders_read_a_subset(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from torchvision.datasets import CocoDetection

    root = mini_coco(tmp_path / "set")
    index = read(Source("mini", "coco", root), "val")
    out = tmp_path / "out"
    out.mkdir()
    (path,) = write_subset(index, {7}, out)
    loaded = COCO(str(path))
    assert sorted(loaded.getAnnIds()) == [0, 11, 14]
    assert loaded.annToMask(loaded.anns[11]).sum() == 100
    image, targets = CocoDetection(str(root / "val2017"), str(path))[0]
    assert image.size == (40, 30)
    assert [target["id"] for target in targets] == [11, 0, 14]
