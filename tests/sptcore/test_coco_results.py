"""COCO results files: what is read, and what is refused before native code sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sptcore.coco_results import read_results, write_results
from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError
from sptcore.tasks.coco_metrics import encode_mask
from tests.support.miniatures import mini_coco


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return open_index(mini_coco(tmp_path_factory.mktemp("data") / "set"), "val")


def good(**changes: Any) -> dict[str, Any]:
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:15, 10:20] = 1
    entry = {
        "image_id": 7, "category_id": 0, "score": 0.5, "bbox": [10, 5, 10, 10.0], "segmentation": encode_mask(mask),
    }  # fmt: skip
    return {**entry, **changes}


def test_a_round_trip(index: DatasetIndex, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    write_results(path, [good(), good(score=1, unknown_key=3)])
    results, masks = read_results(path, index)
    assert masks
    assert results == [good(), good(score=1.0)]


def test_boxes_alone_and_masks_alone(index: DatasetIndex, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    boxes, masks = good(), good()
    del boxes["segmentation"], masks["bbox"]
    write_results(path, [boxes])
    assert read_results(path, index) == ([boxes], False)
    write_results(path, [masks])
    assert read_results(path, index)[0][0]["bbox"] == [10, 5, 10, 10]
    write_results(path, [])
    assert read_results(path, index) == ([], False)


def test_a_class_in_words_must_be_the_data_s_own(index: DatasetIndex, tmp_path: Path) -> None:
    """The ids of two data sets mean other classes: a model's own ids would be scored as whatever has them here."""
    path, name = tmp_path / "found.json", index.categories[0].name
    write_results(path, [good(category=name), good(category=["another", "tool's"])])
    assert read_results(path, index)[0] == [good(), good()]
    write_results(path, [good(), good(category=f"no {name}")])
    with pytest.raises(DataError, match=f"category_id 0 is 'no {name}' in the results, '{name}' in the data") as caught:
        read_results(path, index)
    assert "[1]" in str(caught.value)


def bare(**changes: Any) -> dict[str, Any]:
    return {"image_id": 7, "category_id": 0, "score": 0.5, **changes}


def test_classes_of_images_come_back(index: DatasetIndex, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    write_results(path, [bare(), bare(category_id=3, score=1)])
    assert read_results(path, index, labels=True) == ([bare(), bare(category_id=3, score=1.0)], False)


@pytest.mark.parametrize("entry", [good(), bare(bbox=[1, 2, 3, 4]), bare(), bare(image_id=99), bare(category_id=1)])
def test_what_is_no_class_of_an_image(entry: dict[str, Any], index: DatasetIndex, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps([bare(), entry]))
    with pytest.raises(DataError) as caught:
        read_results(path, index, labels=True)
    assert "[1]" in str(caught.value)


RLE = encode_mask(np.ones((30, 40), dtype=np.uint8))


@pytest.mark.parametrize(
    "entry",
    [
        good(image_id=99),
        good(image_id="7"),
        good(category_id=1),
        good(score="high"),
        good(bbox=[1, 2, 3]),
        good(bbox=[1, 2, -3, 4]),
        {"image_id": 7, "category_id": 0, "score": 0.5},
        good(segmentation={"size": [40, 30], "counts": RLE["counts"]}),
        good(segmentation={"size": [30, 40], "counts": RLE["counts"] + "5"}),
        good(segmentation={"size": [30, 40], "counts": "é"}),
        good(segmentation={"size": [30, 40], "counts": ""}),
        good(segmentation={"size": [30, 40], "counts": [1, 2]}),
        good(segmentation=[[1, 2, 3, 4, 5, 6]]),
    ],
)
def test_entries_that_do_not_fit(entry: dict[str, Any], index: DatasetIndex, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps([good(), entry]))
    with pytest.raises(DataError) as caught:
        read_results(path, index)
    assert "[1]" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b"[NaN]", b"[" * 100000, b'[{"image_id": 7}]', b"\xff"])
def test_files_that_are_something_else(content: bytes, index: DatasetIndex, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a COCO results file"):
        read_results(path, index)


def test_numbers_out_of_range(index: DatasetIndex, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps([good()]).replace("0.5", "1e999"))
    with pytest.raises(DataError):
        read_results(path, index)
