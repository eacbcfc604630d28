"""Faults of one annotation: it is left out and counted, and no native code sees it. Numbers are fault-table rows."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sptcore.data.coco import read
from sptcore.data.format import ReadOptions, Source
from sptcore.data.rasterize import object_mask, object_pixels
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError
from tests.support.miniatures import coco_document, write_coco_file

SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]
DELETE = object()


def read_with(tmp_path: Path, *, strict: bool = False, **values) -> DatasetIndex:
    """The miniature with `values` put into its first annotation, read."""
    document = coco_document()
    document["annotations"] = document["annotations"][:1]
    document["annotations"][0].update(values)
    for key in [key for key, value in values.items() if value is DELETE]:
        del document["annotations"][0][key]
    return read_document(tmp_path, document, strict=strict)


def read_document(tmp_path: Path, document, *, strict: bool = False) -> DatasetIndex:
    path = write_coco_file(tmp_path / "annotations" / "instances_train2017.json", document)
    return read(Source("mini", "coco", tmp_path, path, options=ReadOptions(strict=strict)), "train")


def dropped_whole(tmp_path: Path, cause: str, place: str, **values) -> None:
    index = read_with(tmp_path, **values)
    assert index.records[0].instances == ()
    assert [(fault.cause, fault.where, fault.entry) for fault in index.dropped] == [
        (cause, f"annotations[0]{place}", 0)
    ]
    with pytest.raises(DataError) as caught:
        read_with(tmp_path, strict=True, **values)
    assert f"annotations[0]{place}: {cause}" in str(caught.value)


@pytest.mark.parametrize("far", [1e300, 1e9, -1e9, 4 * 40 + 1001])
def test_a_coordinate_far_out_drops_the_annotation(tmp_path: Path, far: float) -> None:  # 5
    dropped_whole(tmp_path, "coordinate out of range", ".segmentation[0]", segmentation=[[far, *SQUARE[1:]]])
    dropped_whole(tmp_path, "coordinate out of range", ".bbox", bbox=[far, 5, 10, 10])


def test_a_number_beyond_doubles_drops_the_annotation(tmp_path: Path) -> None:  # 5
    document = coco_document()
    document["annotations"] = document["annotations"][:1]
    content = json.dumps(document).encode().replace(b"[[10,", b"[[1e999,")
    index = read_document(tmp_path, content)
    assert [fault.cause for fault in index.dropped] == ["coordinate out of range"]


@pytest.mark.parametrize("box", [[10, 5, -3, 10], [10, 5, 3, -10], [10, 5, 0, 10], [10, 5, 3, 0.0], [10, 5, 3, 1e-300]])
def test_a_box_without_area_drops_the_annotation(tmp_path: Path, box: list) -> None:  # 18
    dropped_whole(tmp_path, "box without area", ".bbox", bbox=box)


def test_a_box_partly_outside_is_clipped_and_counted(tmp_path: Path) -> None:  # 19
    index = read_with(tmp_path, bbox=[-5, -2.5, 12, 10], segmentation=[])
    assert index.records[0].instances[0].box_xyxy == (0, 0, 7, 7.5)
    assert index.counts["box clipped to the image"] == 1
    inside = read_with(tmp_path, bbox=[30.3, 5, 9.7, 10])
    assert inside.counts == {}
    assert inside.records[0].instances[0].box_xyxy == (30.3, 5, 40.0, 15)


@pytest.mark.parametrize("box", [[40, 5, 10, 10], [-10, 5, 10, 10], [3, 30, 5, 5], [3, -9, 5, 5]])
def test_a_box_outside_drops_the_annotation(tmp_path: Path, box: list) -> None:  # 19
    dropped_whole(tmp_path, "box outside the image", ".bbox", bbox=box, segmentation=[])


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, 4, 5], None, DELETE, [], "1,2,3,4", ["1", 2, 3, 4], {"x": 1}])
def test_a_malformed_box_drops_an_annotation_without_mask_only(tmp_path: Path, box) -> None:  # 20
    dropped_whole(tmp_path, "box missing or malformed", ".bbox", bbox=box, segmentation=[])
    index = read_with(tmp_path, bbox=box)
    assert index.records[0].instances[0].box_xyxy == (10, 5, 20, 15)
    assert index.counts["box missing or malformed, taken from the mask"] == 1
    assert not index.dropped


def test_a_malformed_box_is_taken_from_run_lengths_too(tmp_path: Path) -> None:  # 20
    crowd = coco_document()["annotations"][2]["segmentation"]
    index = read_with(tmp_path, bbox=None, segmentation=crowd, iscrowd=1)
    assert index.records[0].instances[0].box_xyxy == (18, 5, 24, 15)


@pytest.mark.parametrize(
    ("polygon", "cause"),
    [
        (SQUARE[:7], "polygon with an odd count"),  # 21
        ([], "polygon of less than three points"),  # 22
        ([10, 5], "polygon of less than three points"),
        ([10, 5, 20, 5], "polygon of less than three points"),
        (["10", *SQUARE[1:]], "polygon is no list of numbers"),
        ("10,5,20,5", "polygon is no list of numbers"),
        (None, "polygon is no list of numbers"),
        ([[10, 5], [20, 5], [20, 15]], "polygon is no list of numbers"),
    ],
)
def test_a_faulty_polygon_is_left_out_alone(tmp_path: Path, polygon, cause: str) -> None:
    index = read_with(tmp_path, segmentation=[SQUARE, polygon])
    assert [(fault.cause, fault.where, fault.entry) for fault in index.dropped] == [
        (cause, "annotations[0].segmentation[1]", -1)
    ]
    assert object_pixels(index.records[0]) == 100
    with pytest.raises(DataError, match="segmentation"):
        read_with(tmp_path, segmentation=[SQUARE, polygon], strict=True)


def test_when_no_polygon_is_left_the_box_stands(tmp_path: Path) -> None:  # 22, 31
    index = read_with(tmp_path, segmentation=[[10, 5, 20, 5]], bbox=[10, 5, 6, 5])
    assert object_pixels(index.records[0]) == 30
    assert index.counts == {"no mask, box used": 1}
    assert len(index.dropped) == 1


@pytest.mark.parametrize(
    "polygon",
    [
        [10, 5, 20, 15, 20, 5, 10, 15],  # self-crossing
        [10, 5, 15, 5, 20, 5],  # collinear
        [10.1, 5.1, 10.4, 5.1, 10.4, 5.4],  # below one pixel
        [-20, -20, -5, -20, -5, -5],  # outside
        [-20, 5, 60, 5, 60, 12, -20, 12],  # sticks out on both sides
        [1100, 5, 1160, 5, 1160, 50],
    ],
)
def test_odd_polygons_equal_pycocotools(tmp_path: Path, polygon: list) -> None:  # 23, 24
    index = read_with(tmp_path, segmentation=[polygon])
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 30, 40)))
    assert object_pixels(index.records[0]) == expected.sum()
    assert np.array_equal(object_mask(index.records[0]), expected)


def test_a_polygon_of_a_million_points_ends_soon(tmp_path: Path) -> None:  # 25
    angle = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    smooth = np.stack([20 + 10 * np.cos(angle), 15 + 10 * np.sin(angle)], 1).round(3).ravel().tolist()
    start = time.process_time()
    index = read_with(tmp_path, segmentation=[smooth])
    assert 300 < object_pixels(index.records[0]) < 330
    assert time.process_time() - start < 30
    wild = np.random.default_rng(0).uniform(-1100, 1100, 200_000).round(1).tolist()
    dropped_whole(tmp_path, "outline too long", ".segmentation[0]", segmentation=[wild])
    long = smooth + smooth[:2]
    dropped_whole(tmp_path, "polygon of more than a million points", ".segmentation[0]", segmentation=[long])


def run_lengths(counts, size=(30, 40)) -> dict:
    return {"size": list(size), "counts": counts}


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (200_000, 200_000), (-30, -40), (0, 0)])
def test_run_lengths_of_another_size_are_dropped(tmp_path: Path, size: tuple) -> None:  # 26, 29
    segmentation = run_lengths([size[0] * size[1]], size)
    dropped_whole(tmp_path, "run lengths of another size", ".segmentation.size", segmentation=segmentation)


@pytest.mark.parametrize("counts", [[1100, 50], [1100, 150], [], [1300, -100], [-1, 1201], [0], [2**70]])
def test_run_lengths_that_do_not_fill_the_image_are_dropped(tmp_path: Path, counts: list) -> None:  # 27
    cause = "run lengths do not fill the image"
    dropped_whole(tmp_path, cause, ".segmentation.counts", segmentation=run_lengths(counts))


@pytest.mark.parametrize(
    "segmentation",
    [
        run_lengths([1100.0, 100.0]),
        run_lengths(None),
        run_lengths(["1100", "100"]),
        {"counts": [1200]},
        {"size": [30, 40]},
        run_lengths([1200], size=(30,)),
        run_lengths([1200], size=(30.0, 40.0)),
        5,
        "text",
        True,
    ],
)
def test_segmentations_of_another_type_are_dropped(tmp_path: Path, segmentation) -> None:  # 27
    cause = "segmentation is neither polygons nor run lengths"
    dropped_whole(tmp_path, cause, ".segmentation", segmentation=segmentation)


def test_run_lengths_padded_with_empty_runs_are_safe(tmp_path: Path) -> None:
    """pycocotools 2.0.11 overruns its buffer when it merges these."""
    counts = [545, *[0, 0] * 5000, 10, 0, 0, 645]
    document = coco_document()
    document["annotations"][2]["segmentation"] = run_lengths(counts)
    index = read_document(tmp_path, document)
    assert object_pixels(index.records[0]) == 100 + 20, "its ten pixels lie on the square"
    assert not index.dropped


def valid_code() -> str:
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[5:15, 10:20] = 1
    return coco_mask.encode(mask)["counts"].decode()


def test_a_compressed_code_is_taken(tmp_path: Path) -> None:
    index = read_with(tmp_path, segmentation=run_lengths(valid_code()))
    assert object_pixels(index.records[0]) == 100
    assert object_mask(index.records[0])[5:15, 10:20].all()


@pytest.mark.parametrize(
    "code", ["", "!!!!", "é" + valid_code(), valid_code()[:-1] + "P", "PPPPPPPPPPPPP0", "oooooooooo", "\x7f\x7f", "p"]
)
def test_a_garbled_code_is_dropped(tmp_path: Path, code: str) -> None:  # 28
    dropped_whole(tmp_path, "run lengths malformed", ".segmentation.counts", segmentation=run_lengths(code))


@pytest.mark.parametrize("code", ["a9:d000000000000000000", valid_code() + "1", "0", "O"])
def test_a_code_of_another_sum_is_dropped(tmp_path: Path, code: str) -> None:  # 27
    cause = "run lengths do not fill the image"
    dropped_whole(tmp_path, cause, ".segmentation.counts", segmentation=run_lengths(code))


@pytest.mark.parametrize("segmentation", [None, [], DELETE])
def test_without_a_segmentation_the_box_is_used(tmp_path: Path, segmentation) -> None:  # 31
    index = read_with(tmp_path, segmentation=segmentation)
    assert object_pixels(index.records[0]) == 100
    assert index.counts == {"no mask, box used": 1}
    assert not index.has_masks


@pytest.mark.parametrize(("value", "crowd"), [(1, True), (0, False), (True, True), (None, False), (DELETE, False)])
def test_iscrowd_in_its_spellings(tmp_path: Path, value, crowd: bool) -> None:
    assert read_with(tmp_path, iscrowd=value).records[0].instances[0].is_crowd is crowd


def test_annotation_id_zero_and_category_zero_are_kept(tmp_path: Path) -> None:  # 14, 16
    index = read_document(tmp_path, coco_document())
    assert {instance.instance_id for instance in index.records[0].instances} == {11, 0, 14}
    assert index.records[0].instances[0].category_id == 0


def test_one_bad_entry_does_not_touch_its_neighbours(tmp_path: Path) -> None:
    document = coco_document()
    sound = read_document(tmp_path, document).records
    document["annotations"].insert(1, {"id": 99, "image_id": 7, "category_id": 0, "bbox": "x", "segmentation": 7})
    index = read_document(tmp_path, document)
    assert index.records == sound
    assert [fault.entry for fault in index.dropped] == [1]
