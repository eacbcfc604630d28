from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.data.coco import detect, image_folder, read, splits, write_subset
from sptcore.data.format import Source
from sptcore.errors import DataError
from tests.support.miniatures import coco_document, mini_coco, write_coco_file, write_picture

ANNOTATION_FILES = {
    "annotations/instances_train2017.json": ("train", "train2017"),
    "annotations/instances_val2014.json": ("val", "images/val2014"),
    "annotations/instances_minitrain.json": ("minitrain", "images"),
    "annotations/valid.json": ("val", "valid"),
    "train/_annotations.coco.json": ("train", "train"),
    "valid/_annotations.coco.json": ("val", "valid"),
}


@pytest.mark.parametrize(("name", "expected"), ANNOTATION_FILES.items())
def test_known_layouts(tmp_path: Path, name: str, expected: tuple[str, str]) -> None:
    split, folder = expected
    root = tmp_path / "set"
    write_coco_file(root / name, coco_document())
    write_picture(root / folder / "seven.png", 40, 30)
    assert detect(root)
    assert splits(root) == [split]
    index = read(Source("x", "coco", root), split)
    assert (index.annotation_path, index.image_root) == (root / name, root / folder)
    out = tmp_path / "out"
    out.mkdir()
    write_subset(index, {7, 2}, out)
    assert detect(out)
    assert splits(out) == [split]
    write_picture(out / image_folder(index) / "seven.png", 40, 30)
    again = read(Source("x", "coco", out), split)
    assert again.image_root == out / image_folder(index)
    assert len(again.records) == 2


def test_other_folders_are_no_coco_set(tmp_path: Path) -> None:
    write_coco_file(tmp_path / "annotations" / "captions_train2017.json", coco_document())
    write_coco_file(tmp_path / "labels" / "det_20" / "det_train.json", [])
    assert not detect(tmp_path)
    assert not detect(tmp_path / "none")


def test_the_later_of_two_years_is_meant(tmp_path: Path) -> None:
    for year in (2014, 2017):
        write_coco_file(tmp_path / "annotations" / f"instances_train{year}.json", coco_document())
    assert splits(tmp_path) == ["train"]
    source = Source("x", "coco", tmp_path)
    assert read(source, "train").annotation_path.name == "instances_train2017.json"
    assert read(source, "train2014").annotation_path.name == "instances_train2014.json"


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    root = mini_coco(tmp_path)
    with pytest.raises(DataError, match=r"no split 'test' \(found: train, val\)"):
        read(Source("x", "coco", root), "test")


def test_image_roots_of_the_source_come_first(tmp_path: Path) -> None:
    root = mini_coco(tmp_path / "set")
    source = Source("x", "coco", root, image_roots={"train": tmp_path / "elsewhere"})
    assert read(source, "train").image_root == tmp_path / "elsewhere"
    assert read(source, "val").image_root == root / "val2017"


def test_without_images_the_official_folder_is_named(tmp_path: Path) -> None:
    write_coco_file(tmp_path / "annotations" / "instances_train2017.json", coco_document())
    assert read(Source("x", "coco", tmp_path), "train").image_root == tmp_path / "train2017"
