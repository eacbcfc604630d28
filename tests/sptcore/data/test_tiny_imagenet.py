"""Tiny ImageNet: the facts of the real sample, lines that are wrong, and subsets that keep the source's bytes."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sptcore.data import FORMATS
from sptcore.data.format import ReadOptions, Source
from sptcore.data.images import read_image
from sptcore.data.rasterize import is_below, object_ratio
from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.errors import DataError
from tests.support.samples import samples_root
from tests.support.tiny import WNIDS, make_tiny

TINY = FORMATS["tiny-imagenet"]


def _read(root: Path, split: str = "train", **options) -> DatasetIndex:
    return TINY.read(Source("tiny", "tiny-imagenet", root, options=ReadOptions(**options)), split)


@pytest.fixture(scope="module")
def real() -> dict[str, DatasetIndex]:
    root = samples_root("tiny-imagenet-200")
    assert TINY.detect(root)
    assert TINY.splits(root) == ["train", "val"]
    return {split: _read(root, split) for split in ("train", "val")}


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((samples_root("tiny-imagenet-200") / "facts.json").read_text())


def _exclusive(record: ImageRecord) -> tuple[int, int]:
    x1, y1, x2, y2 = record.instances[0].box_xyxy
    return int((x2 - 1 - x1) * (y2 - 1 - y1)), record.width * record.height


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("measure", "ratio_of"), [("box_ratio", object_ratio), ("box_ratio_exclusive", _exclusive)])
def test_every_count_of_the_real_sample_is_that_of_its_facts(real, facts, split, measure, ratio_of):
    known = facts[split]["counts"][measure]
    pairs = [ratio_of(record) for record in real[split].records]
    assert len(pairs) == known["images"] == facts[split]["images"]
    assert sum(is_below(*pair, Fraction(1, 5)) for pair in pairs) == known["under_0.20"]
    assert sum(is_below(*pair, Fraction(1, 4)) for pair in pairs) == known["under_0.25"]
    ratios = [pixels / total for pixels, total in pairs]
    assert np.mean(ratios) == pytest.approx(known["mean"], abs=1e-5)
    assert np.percentile(ratios, [0, 10, 25, 50, 75, 90, 100]) == pytest.approx(
        known["percentiles_0_10_25_50_75_90_100"], abs=1e-5
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_follow_the_order_of_wnids(real, facts, split):
    root = samples_root("tiny-imagenet-200")
    wnids = (root / "wnids.txt").read_text().split()
    counts = Counter(wnids[record.class_id] for record in real[split].records)
    assert counts == facts[split]["images_by_class"]
    assert [category.category_id for category in real[split].categories] == list(range(20))
    assert real[split].categories[0].name == "Egyptian cat"
    for record in real[split].records:
        assert record.instances[0].category_id == record.class_id
        if split == "train":
            assert record.file_name.startswith(wnids[record.class_id])
    assert len({record.image_id for record in real[split].records}) == len(real[split].records)


def test_grey_images_load_as_three_equal_channels(real, facts):
    grey = 0
    for record in real["val"].records:
        pixels = read_image(real["val"].image_path(record), size=(record.width, record.height))
        grey += bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
    assert facts["val"]["modes"]["L"] <= grey < facts["val"]["modes"]["L"] + 5


def test_boxes_of_one_pixel_are_kept(real):
    sizes = [
        min(x2 - x1, y2 - y1)
        for index in real.values()
        for x1, y1, x2, y2 in (record.instances[0].box_xyxy for record in index.records)
    ]
    assert sizes.count(1.0) == 16
    assert min(sizes) == 1.0


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_subset_keeps_lines_ids_and_class_numbers(real, tmp_path, split):
    source, index = samples_root("tiny-imagenet-200"), real[split]
    kept = [record for record in index.records if is_below(*object_ratio(record), Fraction(1, 5))]
    written = TINY.write_subset(index, [record.image_id for record in kept], tmp_path)
    assert {path.name for path in written} >= {"wnids.txt", "words.txt"}
    for path in written:
        original = (source / path.relative_to(tmp_path)).read_bytes()
        if path.name in ("wnids.txt", "words.txt"):
            assert path.read_bytes() == original
        else:
            lines = path.read_bytes().splitlines(keepends=True)
            assert lines == [line for line in original.splitlines(keepends=True) if line in set(lines)]
    again = TINY.read(Source("s", "tiny-imagenet", tmp_path, image_roots={split: index.image_root}), split)
    assert [(r.image_id, r.file_name, r.class_id) for r in again.records] == [
        (r.image_id, r.file_name, r.class_id) for r in kept
    ]
    assert [r.instances[0].box_xyxy for r in again.records] == [r.instances[0].box_xyxy for r in kept]
    assert again.categories == index.categories
    assert again.source_sha256 != index.source_sha256
    assert TINY.image_folder(index) == Path(split)


def test_images_of_a_subset_lie_where_the_layout_has_them(tmp_path):
    index = _read(make_tiny(tmp_path / "in"))
    TINY.write_subset(index, [index.records[1].image_id], tmp_path / "out")
    for record in index.records[1:2]:
        target = tmp_path / "out" / TINY.image_folder(index) / record.file_name
        target.parent.mkdir(parents=True)
        target.write_bytes(index.image_path(record).read_bytes())
    again = _read(tmp_path / "out")
    assert [record.image_id for record in again.records] == [10001]
    assert again.image_path(again.records[0]).is_file()


def test_ids_and_names_of_the_miniature(tmp_path):
    index = _read(make_tiny(tmp_path))
    assert [(r.image_id, r.class_id) for r in index.records] == [(10000, 0), (10001, 0), (20000, 1), (20001, 1)]
    assert index.records[3].instances[0].box_xyxy == (1.0, 1.0, 11.0, 21.0)
    assert [category.name for category in index.categories] == list(WNIDS)  # both are called "crane"
    assert [r.image_id for r in _read(tmp_path, "val").records] == [0, 1]


def test_images_with_names_of_their_own_are_numbered(tmp_path):
    make_tiny(tmp_path)
    folder = tmp_path / "train" / WNIDS[0]
    (folder / "images" / f"{WNIDS[0]}_0.JPEG").rename(folder / "images" / "cat.png")
    boxes = folder / f"{WNIDS[0]}_boxes.txt"
    boxes.write_text(boxes.read_text().replace(f"{WNIDS[0]}_0.JPEG", "cat.JPEG"))
    index = _read(tmp_path)
    assert [r.image_id for r in index.records] == [1, 2, 3, 4]
    assert index.records[0].file_name == f"{WNIDS[0]}/images/cat.png"


# Row 36: fields, corners, missing files


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{name}\t0\t0\t9", "4 fields"),
        ("{name}\t0\t0\t9\t9\t9", "6 fields"),
        ("{name} 0 0 9 9", "1 fields"),
        ("", "1 fields"),
        ("{name}\t0\t0\t64\t9", r"box \[0, 0, 64, 9\] is no part of an image of 64x64"),
        ("{name}\t9\t0\t8\t9", "is no part"),
        ("{name}\t-1\t0\t8\t9", "four numbers from 0"),
        ("{name}\t0\t0\t8\tx", "four numbers from 0"),
        ("{name}\t0\t0\t8.5\t9", "four numbers from 0"),
        ("gone_5.JPEG\t0\t0\t8\t9", "gone_5.JPEG is missing"),
        ("../x.JPEG\t0\t0\t8\t9", "plain image name"),
    ],
)
def test_a_faulty_line_is_an_error_with_its_number(tmp_path, line, message):
    make_tiny(tmp_path)
    path = tmp_path / "train" / WNIDS[1] / f"{WNIDS[1]}_boxes.txt"
    lines = path.read_text().splitlines()
    lines[1] = line.format(name=f"{WNIDS[1]}_1.JPEG")
    path.write_text("".join(f"{text}\n" for text in lines))
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path)
    assert f"{path.name}:2" in str(caught.value)


def test_faults_of_validation_lines_and_class_lists_are_located(tmp_path):
    make_tiny(tmp_path)
    path = tmp_path / "val" / "val_annotations.txt"
    text = path.read_text()
    path.write_text(text.replace(WNIDS[1], "n09999999"))
    with pytest.raises(DataError, match=r"not in wnids\.txt"):
        _read(tmp_path, "val")
    path.write_text(text + text)
    with pytest.raises(DataError, match="listed twice") as caught:
        _read(tmp_path, "val")
    assert "val_annotations.txt:4" in str(caught.value)
    path.write_bytes(b"\xff\t1\n")
    with pytest.raises(DataError, match="UTF-8"):
        _read(tmp_path, "val")
    (tmp_path / "wnids.txt").write_text(f"{WNIDS[0]}\n{WNIDS[0]}\n")
    with pytest.raises(DataError, match="listed twice"):
        _read(tmp_path)
    (tmp_path / "wnids.txt").write_text("cat\n")
    with pytest.raises(DataError, match="no WordNet id"):
        _read(tmp_path)
    (tmp_path / "wnids.txt").write_text("n05\n")
    with pytest.raises(DataError, match="no box file for class n05") as caught:
        _read(tmp_path)
    assert "wnids.txt:1" in str(caught.value)


def test_another_size_and_a_missing_split(tmp_path):
    make_tiny(tmp_path, side=100)
    assert _read(tmp_path, "val", size=(100, 100)).records[0].width == 100
    with pytest.raises(DataError, match="is no part of an image of 64x64"):
        _read(tmp_path, "val")
    with pytest.raises(DataError, match="no split 'test'"):
        _read(tmp_path, "test")
    with pytest.raises(DataError, match="a folder, not one file"):
        TINY.read(Source("t", "tiny-imagenet", tmp_path, tmp_path / "wnids.txt"), "train")
    assert not TINY.detect(tmp_path / "val")
