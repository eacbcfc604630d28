from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sptcore.data.coco import read, stream
from sptcore.data.format import Source
from sptcore.data.rasterize import object_mask
from tests.support.miniatures import coco_document, write_coco_file


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_blocks_of_any_size_hold_the_same_images(tmp_path: Path, size: int) -> None:
    document = coco_document()
    document["annotations"][3]["bbox"] = None
    path = write_coco_file(tmp_path / "annotations" / "instances_train2017.json", document)
    source = Source("x", "coco", tmp_path, path)
    whole = read(source, "train")
    opened = stream(source, "train")
    assert opened.n_images == 3
    loaded = [pickle.loads(pickle.dumps(block)).load() for block in opened.blocks(size)]
    records = [record for part in loaded for record in part.records]
    assert [record.image_id for record in records] == [7, 2, 5]
    assert [fault for part in loaded for fault in part.dropped] == list(whole.dropped)
    for streamed, kept in zip(records, whole.records, strict=True):
        assert [one.instance_id for one in streamed.instances] == [one.instance_id for one in kept.instances]
        assert (object_mask(streamed) == object_mask(kept)).all()


def test_polygon_numbers_keep_every_bit(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, 20.000000000000004, 5e-324, 15.7, 12.300000000000001]
    document = coco_document()
    document["annotations"][0]["segmentation"] = [numbers]
    path = write_coco_file(tmp_path / "annotations" / "instances_train2017.json", document)
    index = read(Source("x", "coco", tmp_path, path), "train")
    assert index.records[0].instances[0].segmentation.coordinates() == [numbers]
