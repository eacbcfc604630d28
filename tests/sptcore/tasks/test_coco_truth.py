"""Annotations as COCO's evaluation wants them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sptcore.data.locate import open_index
from sptcore.tasks.coco_metrics import coco_scores
from sptcore.tasks.coco_truth import coco_truth
from tests.support.miniatures import mini_coco
from tests.support.samples import samples_root


def test_ids_start_at_one_and_boxes_stand_in_for_masks(tmp_path: Path) -> None:
    truth = coco_truth(open_index(mini_coco(tmp_path / "set"), "train"))
    assert [one["id"] for one in truth["annotations"]] == list(range(1, 5))
    assert [one["id"] for one in truth["images"]] == [7, 2, 5]
    by_image = {(one["image_id"], one["category_id"], one["iscrowd"]): one for one in truth["annotations"]}
    assert by_image[7, 0, 0]["bbox"] == [10, 5, 10, 10]
    assert by_image[7, 3, 1]["segmentation"]["size"] == [30, 40]
    assert by_image[2, 3, 0]["area"] == 150


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_real_sample_scores_as_its_own_file_does(kind: str) -> None:
    """Objects of COCO val moved a little, scored against our ground truth and against the file by pycocotools."""
    from pycocotools.coco import COCO

    root = samples_root("coco")
    truth = coco_truth(open_index(root, "val"))
    official = COCO(str(root / "annotations" / "instances_val2017.json"))
    results = []
    for number, annotation in enumerate(official.loadAnns(official.getAnnIds(iscrowd=False))):
        x, y, w, h = annotation["bbox"]
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": [x + w * (number % 7) / 23, y, w, h],
                "score": 0.1 + (number * 37 % 90) / 100,
                "segmentation": _as_text(official.annToRLE(annotation)),
            }
        )
    reference = {key: official.dataset[key] for key in ("images", "annotations", "categories")}
    ours = coco_scores(truth, results, kind=kind, backend="pycocotools")
    theirs = coco_scores(reference, results, kind=kind, backend="pycocotools")
    assert ours.figures == pytest.approx(theirs.figures, abs=1e-6)
    assert 0.1 < ours.figures["AP"] <= 1


def _as_text(rle: dict) -> dict:
    return (
        {"size": rle["size"], "counts": rle["counts"].decode()}
        if isinstance(rle["counts"], bytes)
        else json.loads(json.dumps(rle))
    )
