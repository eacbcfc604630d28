"""Images beside the annotations of a set, and a set that leaves them where they are. Numbers are fault-table rows."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest

from sptcore.data.format import ReadOptions
from sptcore.data.locate import locate, open_index
from sptcore.data.padding import read_canvas
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.errors import DataError, UsageError
from tests.support.miniatures import mini_coco
from tests.support.sparse_sets import FIFTH, make, rows


@pytest.mark.parametrize("images", ["symlink", "hardlink", "copy"])
def test_images_beside_the_annotations(root: Path, tmp_path: Path, images) -> None:
    out = tmp_path / "out"
    make(root, out, images=images)
    placed = sorted(path.name for path in (out / "train2017").iterdir())
    assert placed == ["-five.png", "seven.png"]
    source, copy = root / "train2017" / "seven.png", out / "train2017" / "seven.png"
    assert copy.read_bytes() == source.read_bytes()
    assert copy.is_symlink() == (images == "symlink")
    assert (copy.stat().st_ino == source.stat().st_ino) == (images != "copy")
    index = open_index(out, "train")
    assert index.image_root == (root / "train2017" if images == "symlink" else out / "train2017")
    if images != "symlink":
        assert json.loads((out / "manifest.json").read_bytes())["splits"]["train"]["image_root"] == "train2017"


def test_a_set_without_images_is_usable(root: Path, tmp_path: Path) -> None:
    from sptcore.data.images import find_image, read_image

    out = tmp_path / "out"
    make(root, out)
    index = open_index(out, "train")
    for record in index.records:
        path = find_image(index.image_root, record.file_name)
        assert read_image(path, size=(record.width, record.height)).shape == (record.height, record.width, 3)


@pytest.mark.parametrize("images", ["symlink", "hardlink", "copy"])
def test_missing_images_are_counted(root: Path, tmp_path: Path, images) -> None:  # 41
    (root / "train2017" / "seven.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images are missing .*'seven.png'"):
        make(root, tmp_path / "out", images=images)
    assert os.listdir(tmp_path) == ["mini"]


def test_a_device_among_the_images_is_never_opened(root: Path, tmp_path: Path) -> None:  # 41
    (root / "train2017" / "seven.png").unlink()
    os.mkfifo(root / "train2017" / "seven.png")
    with pytest.raises(DataError, match="no regular files"):
        make(root, tmp_path / "out", images="copy")


def test_a_link_out_of_the_root_is_not_followed(root: Path, tmp_path: Path) -> None:  # 38
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"x")
    (root / "train2017" / "seven.png").unlink()
    (root / "train2017" / "seven.png").symlink_to(secret)
    with pytest.raises(DataError, match="link leads out"):
        make(root, tmp_path / "out", images="copy")
    followed = locate(root, options=ReadOptions(follow_symlinks=True))
    make_sparse(followed, SparseRule(FIFTH), tmp_path / "out", SparsePlan(images="copy"))
    assert (tmp_path / "out" / "train2017" / "seven.png").read_bytes() == b"x"


def test_padded_images(tmp_path: Path) -> None:
    root = mini_coco(tmp_path / "mini", splits=("train",))
    make(root, tmp_path / "out", SparseRule(None), pad=(2, 2))
    names = {
        path.relative_to(tmp_path / "out" / "train2017").as_posix() for path in tmp_path.glob("out/train2017/**/*.*")
    }
    assert names == {"seven.png", "sub folder/two é.png", "-five.png"}
    index = open_index(tmp_path / "out", "train")
    assert [(record.width, record.height) for record in index.records] == [(80, 60), (60, 40), (32, 32)]
    for record in index.records:
        canvas = read_canvas(index, record)
        assert canvas.shape == (record.height, record.width, 3)
        assert not canvas[record.height // 2 :].any()
        assert canvas[: record.height // 2, : record.width // 2].any()


def test_a_padded_set_is_measured_and_cut_as_it_is(tmp_path: Path) -> None:
    root = mini_coco(tmp_path / "mini", splits=("train",))
    make(root, tmp_path / "pad", SparseRule(None), pad=(2, 2))
    make(tmp_path / "pad", tmp_path / "none", Fraction("0.05"))
    make(tmp_path / "pad", tmp_path / "copy", Fraction("0.05"), images="copy")
    for out in ("none", "copy"):
        index = open_index(tmp_path / out, "train")
        assert [record.image_id for record in index.records] == [7, 5]
        assert index.padding == (2, 2)
        assert read_canvas(index, index.records[0]).shape == (60, 80, 3)
    measured = [(row["object_pixels"], row["width"]) for row in rows(tmp_path / "none")]
    assert measured == [("160", "80"), ("150", "60"), ("0", "32")]
    with pytest.raises(UsageError, match="padded already"):
        make(tmp_path / "pad", tmp_path / "twice", SparseRule(None), pad=(2, 2))


def test_padded_images_follow_links_only_when_told(tmp_path: Path) -> None:
    root = mini_coco(tmp_path / "mini", splits=("train",))
    image = root / "train2017" / "seven.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    plan = SparsePlan(pad=(2, 2))
    with pytest.raises(DataError, match="leads out"):
        make_sparse(locate(root), SparseRule(None), tmp_path / "out", plan)
    source = locate(root, options=ReadOptions(follow_symlinks=True))
    make_sparse(source, SparseRule(None), tmp_path / "out", plan)
    assert (tmp_path / "out" / "train2017" / "seven.png").is_file()


@pytest.mark.parametrize(
    ("format", "said"), [("coco", "left out, except"), ("bdd", "frames written"), ("voc", "files written")]
)
def test_the_manifest_says_what_became_of_dropped_annotations(tmp_path: Path, format: str, said: str) -> None:
    source = locate("sample", format=format)
    manifest = make_sparse(source, SparseRule(FIFTH), tmp_path / "out").manifest
    assert said in manifest["conventions"]["dropped annotations"]
