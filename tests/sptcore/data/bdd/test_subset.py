"""Subsets of BDD100K keep the bytes of their source and read back as the same records."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.data import FORMATS
from sptcore.data.format import Source
from sptcore.data.rasterize import is_below, object_mask, object_ratio
from sptcore.data.records import ImageRecord
from sptcore.errors import IntegrityError
from tests.support.bdd import box_label, make_bdd, poly_label, read_bdd
from tests.support.samples import samples_root

BDD = FORMATS["bdd"]
OLD = "labels/bdd100k_labels_images_val.json"


# A subset keeps bytes


@pytest.mark.parametrize("file", ["labels/det_20/det_train.json", "labels/det_20/det_val.json", OLD])
def test_everything_kept_is_the_source_itself(real, tmp_path, file):
    index = real[file]
    (written,) = BDD.write_subset(index, [record.image_id for record in index.records], tmp_path)
    assert written == tmp_path / file
    assert written.read_bytes() == (samples_root("bdd100k") / file).read_bytes()


@pytest.mark.parametrize("file", ["labels/det_20/det_val.json", OLD])
def test_kept_frames_are_slices_of_the_source_and_read_back_the_same(real, tmp_path, file):
    index = real[file]
    keep = {record.image_id for record in index.records if is_below(*object_ratio(record), Fraction(1, 4))}
    assert len(keep) == 102
    BDD.write_subset(index, keep, tmp_path)
    source = (samples_root("bdd100k") / file).read_bytes()
    for frame, text in zip(json.loads((tmp_path / file).read_text()), _frames_of(tmp_path / file), strict=True):
        assert text in source
        assert json.loads(text) == frame
    again = BDD.read(Source("s", "bdd", tmp_path, image_roots={"val": index.image_root}), "val")
    kept = [record for record in index.records if record.image_id in keep]
    assert [_plain(record) for record in again.records] == [_plain(record) for record in kept]
    assert again.categories == index.categories
    assert BDD.image_folder(again) == Path("images/100k/val")


def _frames_of(path: Path) -> list[bytes]:
    data, texts, at = path.read_text(), [], 1
    decoder = json.JSONDecoder()
    while at < len(data) and data[at:].strip() not in ("]", ""):
        at += len(data[at:]) - len(data[at:].lstrip(" ,\n\r\t"))
        _, end = decoder.raw_decode(data, at)
        texts.append(data[at:end].encode())
        at = end
    return texts


def _plain(record: ImageRecord) -> tuple:
    things = [(t.category_id, t.box_xyxy, t.segmentation, t.is_crowd) for t in record.instances]
    return record.file_name, record.width, record.height, things


def test_the_object_form_keeps_its_other_keys(tmp_path):
    frames = [{"name": f"{n}.jpg", "labels": [box_label("tree", n, 1, n + 4, 9)], "note": 1e3} for n in range(5)]
    text = json.dumps({"groups": None, "frames": frames, "config": {"categories": [{"name": "tree"}]}}, indent=1)
    make_bdd(tmp_path / "in", text)
    index = read_bdd(tmp_path / "in")
    assert index.categories[0].name == "tree"
    (written,) = BDD.write_subset(index, [2, 4], tmp_path / "out")
    content = json.loads(written.read_text())
    assert list(content) == ["groups", "frames", "config"]
    assert [frame["name"] for frame in content["frames"]] == ["1.jpg", "3.jpg"]
    assert "1000.0" in written.read_text()
    (empty,) = BDD.write_subset(index, [], tmp_path / "none")
    assert json.loads(empty.read_text())["frames"] == []
    assert read_bdd(tmp_path / "none").records == ()


def test_an_instance_segmentation_file_keeps_its_place(tmp_path):
    file = "labels/ins_seg/polygons/ins_seg_train.json"
    make_bdd(tmp_path / "in", [{"name": "a.jpg", "labels": [poly_label("car", [[1, 1], [9, 1], [9, 9]])]}], file=file)
    index = read_bdd(tmp_path / "in")
    assert index.has_masks
    assert len(index.categories) == 8
    assert BDD.write_subset(index, [1], tmp_path / "out") == [tmp_path / "out" / file]
    assert index.image_root == tmp_path / "in" / "images" / "10k" / "train"


def test_bitmasks_are_copied_byte_for_byte(tmp_path):
    folder = tmp_path / "in" / "labels" / "ins_seg" / "bitmasks" / "train"
    folder.mkdir(parents=True)
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[2:9, 3:12] = (3, 2, 1, 4)
    pixels[20:25, 20:25] = (200, 0, 0, 7)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    index = read_bdd(tmp_path / "in")
    assert [record.file_name for record in index.records] == ["a.jpg", "b.jpg"]
    (thing,) = index.records[0].instances
    assert (thing.category_id, thing.box_xyxy, thing.is_crowd, thing.area) == (3, (3.0, 2.0, 12.0, 9.0), True, 63.0)
    assert [dropped.cause for dropped in index.dropped] == ["unknown category"] * 2
    assert object_mask(index.records[0]).sum() == 63
    (written,) = BDD.write_subset(index, [2], tmp_path / "out")
    assert written.read_bytes() == (folder / "b.png").read_bytes()
    assert [record.file_name for record in read_bdd(tmp_path / "out").records] == ["b.jpg"]


def test_a_subset_of_bitmasks_from_elsewhere_has_their_own_place(tmp_path):
    folder = tmp_path / "mine" / "masks"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((3, 4, 4), 1, np.uint8)).save(folder / "a.png")
    index = read_bdd(tmp_path / "in", annotation=folder)
    (written,) = BDD.write_subset(index, [1], tmp_path / "out")
    assert written == tmp_path / "out" / "labels" / "ins_seg" / "bitmasks" / "train" / "a.png"
    assert [record.file_name for record in read_bdd(tmp_path / "out").records] == ["a.jpg"]


def test_a_changed_source_is_not_mixed(tmp_path):
    path = make_bdd(tmp_path, [{"name": "a.jpg"}])
    index = read_bdd(tmp_path)
    path.write_text(json.dumps([{"name": "b.jpg"}]))
    with pytest.raises(IntegrityError, match="not the one that was read"):
        BDD.write_subset(index, [1], tmp_path / "out")


def test_blocks_travel_to_other_processes_and_add_up(real):
    root = samples_root("bdd100k")
    opened = BDD.stream(Source("bdd", "bdd", root), "val")
    assert opened is not None
    loaded = [pickle.loads(pickle.dumps(block)).load() for block in opened.blocks(50)]
    assert [len(part.records) for part in loaded] == [50, 50, 24]
    assert tuple(record for part in loaded for record in part.records) == real["labels/det_20/det_val.json"].records
    assert opened.n_images == 124
