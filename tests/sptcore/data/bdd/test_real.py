"""The real sample of BDD100K: every figure of its facts, its classes, its polygons and bitmasks."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from sptcore.data import FORMATS
from sptcore.data.rasterize import instance_mask, object_ratio
from sptcore.data.records import ImageRecord, Rle
from tests.support.bdd import read_bdd
from tests.support.samples import samples_root

BDD = FORMATS["bdd"]
OLD = "labels/bdd100k_labels_images_val.json"


def _exact_ratio(record: ImageRecord, *, at_border: float = 0) -> float:
    """The exact area of the union of the boxes as the facts measure it: corners as differences, real-valued.

    A box that was clipped at the right or lower border ended up to `at_border` pixels before it.
    """
    boxes = np.array([thing.box_xyxy for thing in record.instances])
    border = boxes[:, 2:] == (record.width, record.height)
    boxes[:, 2:] -= np.where(border, at_border, 1)
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    covered = np.zeros((len(ys) - 1, len(xs) - 1), bool)
    for x1, y1, x2, y2 in boxes:
        rows = slice(*np.searchsorted(ys, (y1, y2)))
        covered[rows, slice(*np.searchsorted(xs, (x1, x2)))] = True
    return float((np.diff(ys)[:, None] * np.diff(xs)[None, :] * covered).sum() / (record.width * record.height))


@pytest.mark.parametrize("file", ["labels/det_20/det_train.json", "labels/det_20/det_val.json", OLD])
def test_every_ratio_and_count_of_the_real_sample_is_that_of_its_facts(real, facts, file):
    index, known = real[file], facts["label_files"][file]
    assert len(index.records) == known["frames"]
    assert sum(len(record.instances) for record in index.records) == known["boxes"]
    ratios = []
    for record in index.records:
        assert (record.width, record.height) == (1280, 720)
        assert len(record.instances) == known["per_image"][record.file_name]["objects"]
        ratios.append([_exact_ratio(record, at_border=1), _exact_ratio(record, at_border=0)])
        assert ratios[-1][0] - 1e-6 <= known["per_image"][record.file_name]["box_ratio"] <= ratios[-1][1] + 1e-6
        assert ratios[-1][1] - ratios[-1][0] < 2e-3
    for limit in (0.20, 0.25):
        under = known["counts"]["box_ratio"][f"under_{limit:.2f}"]
        assert (np.array(ratios) < limit).sum(axis=0).tolist() == [under, under]


def test_inclusive_corners_move_only_an_image_near_the_threshold(real, facts):
    """Our own rule counts the last row and column of a box; no decision of the facts changes but a close one."""
    known = facts["label_files"][OLD]
    for record in real[OLD].records:
        pixels, total = object_ratio(record)
        exact = known["per_image"][record.file_name]["box_ratio"]
        assert exact - 1e-3 <= pixels / total <= exact + 5e-3
        for limit in (0.20, 0.25):
            near = known["counts"]["box_ratio"][f"near_{limit:.2f}"]
            assert (pixels / total < limit) == (exact < limit) or record.file_name in near


def test_names_of_2018_and_2020_are_the_same_classes(real, facts):
    names = {category.category_id: category.name for category in real[OLD].categories}
    assert list(names) == list(range(1, 11))
    counts = [Counter(names[t.category_id] for r in real[f].records for t in r.instances) for f in list(real)[1:]]
    assert counts[0] == counts[1] == facts["label_files"]["labels/det_20/det_val.json"]["boxes_by_category"]
    assert [r.instances for r in real["labels/det_20/det_val.json"].records] == [r.instances for r in real[OLD].records]


def test_det_20_comes_first_and_the_others_are_named(real):
    assert real["labels/det_20/det_val.json"].notes == (
        "labels read: det_20 (also here: the labels of 2018; choose with --ann)",
    )
    assert real[OLD].notes == ("labels read: the labels of 2018",)
    root = samples_root("bdd100k")
    assert BDD.detect(root)
    assert BDD.splits(root) == ["train", "val"]
    assert real[OLD].image_path(real[OLD].records[0]).is_file()


def test_the_ratio_of_the_bitmask_sample_is_that_of_its_facts(facts):
    root = samples_root("bdd100k")
    (name, known), *_ = facts["bitmasks"].items()
    index = read_bdd(root, "train", (root / name).parent)
    (record,) = index.records
    assert len(record.instances) == known["instances"]
    assert {thing.category_id for thing in record.instances} == set(known["category_ids"])
    pixels, total = object_ratio(record)
    assert pixels / total == pytest.approx(known["object_pixel_ratio"], abs=1e-6)
    assert (record.height, record.width) == tuple(known["shape"][:2])
    assert sum(thing.area for thing in record.instances) == pixels


def test_bezier_polygons_agree_with_the_bitmask_made_from_them():
    """The bitmask paints boundary pixels as well: all differences lie within a pixel and a half of an edge."""
    root = samples_root("bdd100k") / "format_samples" / "ins_seg"
    outlined = read_bdd(root, "train", root / "polygons" / "ins_seg.json").records[0]
    painted = read_bdd(root, "train", root / "bitmasks").records[0]
    assert len(outlined.instances) == len(painted.instances) == 4
    for first, second in zip(outlined.instances, painted.instances, strict=True):
        ours, theirs = (instance_mask(thing, 720, 1280) for thing in (first, second))
        edge = _near_edge(theirs.astype(bool))
        assert not (ours != theirs)[~edge].any()
        assert np.allclose(first.box_xyxy, second.box_xyxy, atol=1.5)


def _near_edge(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1, mode="edge")
    around = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
    return np.any(around, axis=0) & ~np.all(around, axis=0)


def test_a_curve_is_not_the_polygon_of_its_control_points():
    """Control: taking control points for corners is seen by the test above."""
    root = samples_root("bdd100k") / "format_samples" / "ins_seg"
    frames = json.loads((root / "polygons" / "ins_seg.json").read_text())
    corners = frames[0]["labels"][0]["poly2d"][0]
    assert "CC" in corners["types"]
    painted = instance_mask(read_bdd(root, "train", root / "bitmasks").records[0].instances[0], 720, 1280)
    flat = np.zeros((720, 1280), bool)
    from pycocotools import mask as coco_mask

    code = coco_mask.frPyObjects([np.array(corners["vertices"]).ravel().tolist()], 720, 1280)
    flat |= coco_mask.decode(code)[..., 0].astype(bool)
    assert (flat != painted)[~_near_edge(painted.astype(bool))].sum() > 50


def test_run_lengths_come_before_polygons():
    root = samples_root("bdd100k") / "format_samples" / "ins_seg"
    path = root / "polygons" / "ins_seg_car.json"
    record = read_bdd(root, "train", path).records[0]
    for thing, label in zip(record.instances, json.loads(path.read_text())[0]["labels"], strict=True):
        assert isinstance(thing.segmentation, Rle)
        assert thing.segmentation.counts.decode() == label["rle"]["counts"]
        rows, columns = np.nonzero(instance_mask(thing, 720, 1280))
        extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.allclose(extent, thing.box_xyxy, atol=2)
