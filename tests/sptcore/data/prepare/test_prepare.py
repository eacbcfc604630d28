"""The job `prepare`: parts, counts, missing and wrong images, in each of the formats."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from sptcore.data.prepare import prepare
from sptcore.errors import DataError, UsageError
from tests.support.samples import samples_root
from tests.support.tiny import WNIDS, make_tiny
from tests.support.voc import make_voc, voc_object, voc_xml


def _coco(root: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    """A COCO set of grey images, as annotated."""
    folder = root / "coco"
    for place in ("annotations", "val2017"):
        (folder / place).mkdir(parents=True)
    images = []
    for number, (name, size) in enumerate(sizes.items()):
        Image.new("RGB", size, (90, 90, 90)).save(folder / "val2017" / name)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("name", "folder", "images"),
    [("coco", "coco", 179), ("voc", "voc", 62), ("bdd", "bdd100k", 126), ("tiny-imagenet", "tiny-imagenet-200", 3500)],
)
def test_the_real_samples_are_partial_and_sound(name, folder, images):
    report = prepare(name, root=samples_root(folder).parent, check=True)
    assert report.format == name
    assert not report.problems
    assert not report.missing
    assert sum(split.images for split in report.splits) == images
    assert all(split.images_present == split.images for split in report.splits)
    assert {part.state for part in report.parts if not part.optional} <= {"partial", "complete"}
    assert report.home.startswith("http")


@pytest.mark.parametrize("layout", ["bdd", "tiny-imagenet"])
def test_the_built_in_sample_is_sound(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("SPT_CACHE", str(tmp_path))
    report = prepare("sample", format=layout, check=True)
    assert not report.problems
    assert not report.parts
    assert sum(split.images for split in report.splits) in (288, 290)


def test_missing_wrong_and_odd_images_are_named(tmp_path):
    names = ["good", "gone", "small", "turned", "page", "pipe", "folder"]
    folder = _coco(tmp_path, {f"{name}.jpg": (40, 30) for name in names}) / "val2017"
    for name in ("gone", "pipe", "folder"):
        (folder / f"{name}.jpg").unlink()
    Image.new("RGB", (20, 30)).save(folder / "small.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(folder / "turned.jpg", exif=exif)
    (folder / "page.jpg").write_text("<html>")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    report = prepare("coco", root=tmp_path, check=True)
    assert {(problem.file_name, problem.kind) for problem in report.problems} == {
        ("gone.jpg", "image missing"),
        ("small.jpg", "image of another size"),
        ("turned.jpg", "image turned by EXIF"),
        ("page.jpg", "image unreadable"),
        ("pipe.jpg", "image unreadable"),
        ("folder.jpg", "image unreadable"),
    }
    details = {problem.file_name: problem.detail for problem in report.problems}
    assert details["small.jpg"] == "20x30, its annotation says 40x30"
    assert "EXIF orientation 6" in details["turned.jpg"]
    assert details["pipe.jpg"] == "not a regular file"
    (split,) = report.splits
    assert (split.images, split.images_present) == (7, 6)
    quick = prepare("coco", root=tmp_path)
    assert quick.problem_counts == {"image missing": 1}


def test_parts_that_are_missing_are_named_with_their_archive(tmp_path):
    _coco(tmp_path, {"a.jpg": (4, 3)})
    report = prepare("coco", root=tmp_path)
    assert [(part.name, part.state) for part in report.parts] == [
        ("training images", "missing"),
        ("validation images", "partial"),
        ("annotations", "partial"),
    ]
    assert [part.archive for part in report.missing] == ["train2017.zip"]


def test_archives_go_to_the_sets_own_folder(tmp_path):
    make_tiny(tmp_path / "made" / "tiny-imagenet-200")
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted((tmp_path / "made").rglob("*")):
            packed.write(path, path.relative_to(tmp_path / "made"))
    report = prepare("tiny-imagenet", root=tmp_path / "data", archives=[archive], check=True)
    assert report.root == tmp_path / "data" / "tiny-imagenet-200"
    assert report.unpacked == {"tiny-imagenet-200.zip": 4 + 2 + 2 + 1 + 2}
    assert [split.images for split in report.splits] == [4, 2]
    assert not report.problems
    assert (report.root / "train" / WNIDS[0] / "images").is_dir()


def test_voc_keeps_the_devkit_folder_of_its_archive(tmp_path, monkeypatch):
    make_voc(tmp_path / "made", {"a": voc_xml(voc_object("dog", (1, 1, 5, 5)))})
    archive = tmp_path / "voc.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted((tmp_path / "made" / "VOCdevkit").rglob("*")):
            packed.write(path, path.relative_to(tmp_path / "made"))
    monkeypatch.setenv("SPT_DATA", str(tmp_path / "data"))
    report = prepare("voc", archives=[archive])
    assert (tmp_path / "data" / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages").is_dir()
    assert sum(split.images for split in report.splits) == 1


def test_an_incomplete_set_says_what_to_get(tmp_path):
    archive = tmp_path / "val2017.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("val2017/a.jpg", b"x")
    with pytest.raises(DataError, match="not complete: no training images, annotations") as caught:
        prepare("coco", root=tmp_path, archives=[archive])
    assert "annotations_trainval2017.zip" in (caught.value.hint or "")
    assert (tmp_path / "coco" / "val2017" / "a.jpg").is_file()


def test_no_set_and_no_archive_are_errors_that_tell_where_to_look(tmp_path):
    with pytest.raises(DataError, match="not found") as caught:
        prepare("coco", root=tmp_path)
    assert "cocodataset.org" in (caught.value.hint or "")
    with pytest.raises(DataError, match="archive is missing") as caught:
        prepare("bdd", root=tmp_path, archives=[tmp_path / "x.zip"])
    assert "berkeley" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no official archives"):
        prepare("sample", archives=[tmp_path / "x.zip"])
