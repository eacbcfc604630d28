"""make-sparse on miniatures, the built-in sample in every layout, and the real sample. Numbers are fault-table rows."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest

from sptcore.data import FORMATS
from sptcore.data.format import ReadOptions
from sptcore.data.locate import locate, open_index
from sptcore.data.rasterize import PixelRule, is_below, object_ratio
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.errors import DataError, IntegrityError, SptError, UsageError
from sptcore.files import sha256_of
from tests.support.bdd import box_label, make_bdd
from tests.support.listening import Listener
from tests.support.miniatures import SEVEN_UNION, TWO_UNION, coco_document, mini_coco, write_coco_file
from tests.support.samples import samples_root
from tests.support.sparse_sets import FIFTH, kept_ids, make, rows, tree
from tests.support.tiny import make_tiny
from tests.support.voc import make_voc, voc_object, voc_xml

QUARTER = Fraction("0.25")


def test_what_is_written(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "mini-s20"
    report = make(root, out)
    assert sorted(tree(out)) == [
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "manifest.json",
        "ratios.csv",
    ]
    assert report.kept == 4
    assert kept_ids(out) == [7, 5]
    document = json.loads((out / "annotations" / "instances_val2017.json").read_bytes())
    source = coco_document()
    assert document["annotations"] == [entry for entry in source["annotations"] if entry["image_id"] == 7]
    assert {key: document[key] for key in ("info", "licenses", "categories", "own_key")} == {
        key: source[key] for key in ("info", "licenses", "categories", "own_key")
    }


def test_a_split_named_twice_is_cut_once(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "once", splits=("train",))
    make(root, tmp_path / "twice", splits=("train", "train"))
    assert tree(tmp_path / "twice") == tree(tmp_path / "once")


def test_ratios_of_every_image(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "out")
    found = [row for row in rows(tmp_path / "out") if row["split"] == "train"]
    assert [(row["image_id"], row["object_pixels"], row["verdict"]) for row in found] == [
        ("7", str(SEVEN_UNION), "kept"),
        ("2", str(TWO_UNION), "ratio"),
        ("5", "0", "kept"),
    ]
    assert [row["ratio"] for row in found] == ["0.133333", "0.250000", "0.000000"]
    assert found[1]["file_name"] == "sub folder/two é.jpg"


def test_the_manifest(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = make(root, out)
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest == report.manifest
    assert manifest["schema"] == "spt.sparse-set/1"
    assert manifest["rule"]["max_ratio"] == "0.2"
    assert manifest["origin"] == {"name": "mini", "root": str(root)}
    train = manifest["splits"]["train"]
    assert train["image_root"] == str(root / "train2017")
    assert train["source"]["sha256"] == sha256_of(root / "annotations" / "instances_train2017.json")
    assert (train["images"], train["kept"], train["without_objects"]) == (3, 2, 1)
    assert train["would_keep"] == {"0.15": 2, "0.20": 2, "0.25": 2}
    assert train["noticed"] == {"no mask, box used": 2}
    for path, value in manifest["output"]["files"].items():
        assert sha256_of(out / path) == value


def test_a_tie_is_excluded(root: Path, tmp_path: Path) -> None:  # 46
    make(root, tmp_path / "a", QUARTER)
    assert kept_ids(tmp_path / "a") == [7, 5]
    make(root, tmp_path / "b", Fraction("0.2501"))
    assert kept_ids(tmp_path / "b") == [7, 2, 5]


def test_dropped_annotations_are_counted_listed_and_left_out(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0]["bbox"] = [10, 5, -10, 10]
    document["annotations"][3]["image_id"] = 99
    root = mini_coco(tmp_path / "mini", document, splits=("train",))
    out = tmp_path / "out"
    report = make(root, out)
    dropped = report.manifest["splits"]["train"]["dropped"]
    assert dropped["total"] == 2
    assert dropped["by_cause"] == {"box without area": 1, "unknown image": 1}
    assert ["box without area", "annotations[0].bbox", "-10x10"] in dropped["listed"]
    written = json.loads((out / "annotations" / "instances_train2017.json").read_bytes())
    assert [entry["id"] for entry in written["annotations"]] == [0]
    strict = locate(root, options=ReadOptions(strict=True))
    with pytest.raises(DataError, match="unknown image"):
        make_sparse(strict, SparseRule(FIFTH), tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


CASES = {
    "masks": (SparseRule(FIFTH, pixels=PixelRule(ratio_from="masks")), [140, 0, 0]),
    "boxes": (SparseRule(FIFTH, pixels=PixelRule(ratio_from="boxes")), [160, 150, 0]),
    "no crowd": (SparseRule(FIFTH, pixels=PixelRule(crowd="exclude")), [120, 150, 0]),
    "sum": (SparseRule(FIFTH, pixels=PixelRule(overlap="sum")), [180, 150, 0]),
    "one class": (SparseRule(FIFTH, classes=("cup",)), [100, 0, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_counts_as_object(root: Path, tmp_path: Path, case: str) -> None:
    rule, expected = CASES[case]
    make(root, tmp_path / "out", rule, splits=("val",))
    assert [int(row["object_pixels"]) for row in rows(tmp_path / "out")] == expected


def test_empty_crowded_and_limited(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "a", SparseRule(FIFTH, drop_empty=True))
    assert kept_ids(tmp_path / "a") == [7]
    make(root, tmp_path / "b", SparseRule(FIFTH, pixels=PixelRule(crowd="drop-image")))
    assert kept_ids(tmp_path / "b") == [5]
    report = make(root, tmp_path / "c", SparseRule(FIFTH, limit=1))
    assert kept_ids(tmp_path / "c") == [7]
    assert report.manifest["splits"]["train"]["verdicts"]["limit"] == 1
    make(root, tmp_path / "d", SparseRule(None, min_ratio=Fraction("0.2")))
    assert kept_ids(tmp_path / "d") == [2]


def test_unknown_classes_and_splits(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no class 'cups'"):
        make(root, tmp_path / "out", SparseRule(FIFTH, classes=("cups",)))
    with pytest.raises(DataError, match=r"no split 'test' \(found: train, val\)"):
        make(root, tmp_path / "out", splits=("test",))
    assert os.listdir(tmp_path) == ["mini"]


def test_masks_of_a_set_without_any(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = [document["annotations"][1]]
    root = mini_coco(tmp_path / "mini", document)
    with pytest.raises(DataError, match="no object has a mask"):
        make(root, tmp_path / "out", SparseRule(FIFTH, pixels=PixelRule(ratio_from="masks")))


def test_a_source_that_changes_meanwhile(root: Path, tmp_path: Path) -> None:  # 56
    path = root / "annotations" / "instances_train2017.json"

    def change(step: int) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(IntegrityError, match="changed while it was being read"):
        make_sparse(locate(root), SparseRule(FIFTH), tmp_path / "out", progress=Listener(change))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(root: Path, tmp_path: Path) -> None:
    report = make(root, tmp_path / "none" / "out", dry_run=True)
    assert (report.out, report.kept) == (None, 4)
    assert os.listdir(tmp_path) == ["mini"]


def test_nothing_kept(root: Path, tmp_path: Path) -> None:  # 47
    rule = SparseRule(Fraction("0.1"), drop_empty=True)
    listener = Listener()
    report = make_sparse(locate(root), rule, tmp_path / "out", progress=listener)
    assert report.kept == 0
    assert "no image is kept" in listener.warnings[0]
    assert kept_ids(tmp_path / "out") == []
    with pytest.raises(IntegrityError, match="no image is kept"):
        make(root, tmp_path / "other", rule, fail_empty=True)
    assert not (tmp_path / "other").exists()


def test_an_empty_source(tmp_path: Path) -> None:  # 47
    document = coco_document() | {"images": [], "annotations": []}
    report = make(mini_coco(tmp_path / "mini", document), tmp_path / "out")
    assert report.kept == 0
    assert rows(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("plan", "rule"),
    [
        ({"jobs": 0}, SparseRule(FIFTH)),
        ({"shard": (1, 2), "merge": (Path("x"),)}, SparseRule(FIFTH)),
        ({"pad": (2, 2), "images": "copy"}, SparseRule(FIFTH)),
        ({}, SparseRule(None)),
    ],
)
def test_options_that_make_no_sense_together(root: Path, tmp_path: Path, plan: dict, rule: SparseRule) -> None:
    with pytest.raises(UsageError):
        make(root, tmp_path / "out", rule, **plan)


def bdd_set(root: Path) -> Path:
    frames = [
        {"name": f"{k}.jpg", "labels": [box_label("car", 10, 10, 10 + 40 * k, 10 + 40 * k)] if k else None}
        for k in range(8)
    ]
    make_bdd(root, frames, images={f"{k}.jpg": (1280, 720) for k in range(8)})
    return root


def voc_set(root: Path) -> Path:
    boxes = {f"2007_00000{k}": voc_xml(voc_object("cat", (1, 1, 5 * k, 4 * k))) for k in range(1, 8)}
    make_voc(root, boxes)
    return root


def tiny_set(root: Path) -> Path:
    first = sorted(make_tiny(root).glob("train/*/*_boxes.txt"))[0]
    lines = first.read_text().splitlines()
    first.write_text("\n".join([lines[0].split("\t")[0] + "\t0\t0\t63\t63", *lines[1:]]) + "\n")
    return root


LAYOUTS = {"coco": mini_coco, "bdd": bdd_set, "voc": voc_set, "tiny-imagenet": tiny_set}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_is_cut_and_read_again(tmp_path: Path, layout: str) -> None:
    assert LAYOUTS.keys() == FORMATS.keys()
    source = locate(LAYOUTS[layout](tmp_path / "set"))
    assert source.format == layout
    before = FORMATS[layout].read(source, "train")
    ratios = {record.file_name: object_ratio(record) for record in before.records}
    largest = max(Fraction(*pair) for pair in ratios.values())
    report = make_sparse(source, SparseRule(largest), tmp_path / "out")
    after = open_index(tmp_path / "out", "train")
    expected = {name: pair for name, pair in ratios.items() if is_below(*pair, largest)}
    assert {record.file_name: object_ratio(record) for record in after.records} == expected
    assert 0 < report.manifest["splits"]["train"]["kept"] == len(expected) < len(ratios)
    for record in after.records:
        assert after.image_path(record).is_file()
    make_sparse(source, SparseRule(largest), tmp_path / "copy", SparsePlan(images="copy"))
    copied = open_index(tmp_path / "copy", "train")
    assert copied.records == after.records
    assert all(copied.image_path(record).is_relative_to(tmp_path / "copy") for record in copied.records)
    assert all(copied.image_path(record).is_file() for record in copied.records)


def test_a_sparse_set_can_be_cut_again(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "a", Fraction("0.5"))
    make(tmp_path / "a", tmp_path / "b", FIFTH)
    make(root, tmp_path / "c", FIFTH)
    assert (
        tree(tmp_path / "b")["annotations/instances_train2017.json"]
        == (tree(tmp_path / "c")["annotations/instances_train2017.json"])
    )
    assert open_index(tmp_path / "b", "train").image_root == root / "train2017"


def test_the_real_sample_keeps_what_the_facts_say(tmp_path: Path) -> None:
    facts = json.loads((samples_root("coco") / "facts.json").read_bytes())
    report = make(samples_root("coco"), tmp_path / "coco-s20")
    assert {split: part["kept"] for split, part in report.manifest["splits"].items()} == {"train": 66, "val": 28}
    boxes = SparseRule(FIFTH, pixels=PixelRule(ratio_from="boxes"))
    report = make(samples_root("coco"), tmp_path / "boxes", boxes)
    for split, part in report.manifest["splits"].items():
        counts = facts[f"{split}2017"]["counts"]["box_ratio"]
        assert abs(part["kept"] - counts["under_0.20"]) <= len(counts["near_0.20"])
    for row in rows(tmp_path / "coco-s20"):
        expected = facts[f"{row['split']}2017"]["per_image"][row["file_name"]]["mask_ratio"]
        assert float(row["ratio"]) == pytest.approx(expected, abs=1.1e-6)


def test_official_loaders_read_the_result(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from torchvision.datasets import CocoDetection

    out = tmp_path / "coco-s20"
    make(samples_root("coco"), out, images="symlink", splits=("val",))
    path = out / "annotations" / "instances_val2017.json"
    loaded = COCO(str(path))
    assert len(loaded.imgs) == 28
    pairs = CocoDetection(str(out / "val2017"), str(path))
    assert len(pairs) == 28
    image, _ = pairs[5]
    assert image.size == (loaded.imgs[pairs.ids[5]]["width"], loaded.imgs[pairs.ids[5]]["height"])


def test_every_error_is_one_of_ours(tmp_path: Path) -> None:
    root = mini_coco(tmp_path / "mini")
    write_coco_file(root / "annotations" / "instances_val2017.json", b'{"images": [')
    with pytest.raises(SptError) as caught:
        make(root, tmp_path / "out")
    assert "instances_val2017.json" in str(caught.value)
    assert os.listdir(tmp_path) == ["mini"]
