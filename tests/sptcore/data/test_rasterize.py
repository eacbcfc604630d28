from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from sptcore.data.rasterize import (
    instance_mask,
    is_below,
    object_mask,
    object_pixels,
    object_ratio,
    touch_mask,
)
from sptcore.data.records import ImageRecord, Instance, MaskFile, Polygons, Rle
from sptcore.errors import DataError

WIDTH, HEIGHT = 40, 30


def box(x1: float, y1: float, x2: float, y2: float, **more) -> Instance:
    return Instance(1, more.pop("category_id", 1), (x1, y1, x2, y2), **more)


def outline(*numbers: float, **more) -> Instance:
    return box(0, 0, 1, 1, segmentation=Polygons(parts=[list(numbers)]), **more)


def image(*instances: Instance) -> ImageRecord:
    return ImageRecord(1, "a.png", WIDTH, HEIGHT, instances)


SIDE = st.floats(-5, 50, allow_nan=False)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE).map(
    lambda s: box(min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)
TRIANGLES = st.lists(st.floats(-5, 50, width=32), min_size=6, max_size=14).map(lambda p: outline(*p[: len(p) // 2 * 2]))


def centre_raster(instance: Instance) -> np.ndarray:
    x1, y1, x2, y2 = instance.box_xyxy
    columns, rows = np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5
    return ((rows >= y1) & (rows < y2))[:, None] & ((columns >= x1) & (columns < x2))[None]


def touch_raster(instance: Instance) -> np.ndarray:
    x1, y1, x2, y2 = instance.box_xyxy
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
    inside = x1 < x2 and y1 < y2
    return (((rows + 1 > y1) & (rows < y2))[:, None] & ((columns + 1 > x1) & (columns < x2))[None]) & inside


@given(st.lists(BOX, max_size=12))
def test_box_unions_equal_a_canvas(boxes: list[Instance]) -> None:
    canvas = np.zeros((HEIGHT, WIDTH), bool)
    for one in boxes:
        canvas |= centre_raster(one)
    assert np.array_equal(object_mask(image(*boxes)), canvas)
    assert object_pixels(image(*boxes)) == canvas.sum()


@given(st.lists(BOX, max_size=6))
def test_touched_pixels_of_boxes(boxes: list[Instance]) -> None:
    canvas = np.zeros((HEIGHT, WIDTH), bool)
    for one in boxes:
        canvas |= touch_raster(one)
    assert np.array_equal(touch_mask(image(*boxes)), canvas)
    assert (touch_mask(image(*boxes)) >= object_mask(image(*boxes))).all()


def test_the_rule_for_box_edges_to_the_letter() -> None:
    for x1, x2 in [(2.5, 4.5), (2.49, 4.51), (2.51, 4.49), (3, 3.4), (-3, 1.2), (38.7, 60)]:
        columns = np.flatnonzero(object_mask(image(box(x1, 0, x2, 1)))[0])
        low, high = math.ceil(max(x1, 0) - 0.5), math.ceil(min(x2, WIDTH) - 0.5) - 1
        assert columns.tolist() == list(range(low, high + 1))


def test_cells_a_box_touches_are_those_of_the_pooled_touch_mask() -> None:
    draw = np.random.default_rng(5)
    for _ in range(300):
        x1, y1 = draw.uniform(0, (WIDTH - 1, HEIGHT - 1)).round(2)
        x2, y2 = min(x1 + draw.uniform(0.1, 20), WIDTH), min(y1 + draw.uniform(0.1, 20), HEIGHT)
        mask = touch_mask(image(box(x1, y1, x2, y2)))
        for stride in (4, 8):
            rows, columns = -(-HEIGHT // stride), -(-WIDTH // stride)
            padded = np.zeros((rows * stride, columns * stride), bool)
            padded[:HEIGHT, :WIDTH] = mask
            pooled = padded.reshape(rows, stride, columns, stride).any((1, 3))
            expected = np.zeros((rows, columns), bool)  # the touch rule
            top, bottom = math.floor(y1 / stride), math.ceil(y2 / stride)
            expected[top:bottom, math.floor(x1 / stride) : math.ceil(x2 / stride)] = True
            assert np.array_equal(pooled, expected)


@settings(deadline=None)
@given(st.lists(st.one_of(BOX, TRIANGLES), max_size=6))
def test_masks_and_boxes_together_equal_pycocotools_and_canvas(instances: list[Instance]) -> None:
    canvas = np.zeros((HEIGHT, WIDTH), bool)
    single = 0
    for one in instances:
        if one.segmentation is None:
            part = centre_raster(one)
        else:
            codes = coco_mask.frPyObjects(one.segmentation.coordinates(), HEIGHT, WIDTH)
            part = coco_mask.decode(codes).any(2)
        canvas |= part
        single += int(part.sum())
        assert np.array_equal(instance_mask(one, HEIGHT, WIDTH), part)
    record = image(*instances)
    assert object_pixels(record) == canvas.sum() == object_mask(record).sum()
    assert np.array_equal(object_mask(record), canvas)
    assert object_pixels(record, overlap="sum") == single


def test_polygons_of_one_object_are_united_not_even_odd() -> None:
    square, inner = [5.0, 5, 25, 5, 25, 25, 5, 25], [10.0, 10, 20, 10, 20, 20, 10, 20]
    one = box(5, 5, 25, 25, segmentation=Polygons(parts=[square, inner]))
    assert object_pixels(image(one)) == 400
    assert object_pixels(image(one), overlap="sum") == 400


def test_run_lengths_from_a_hand_drawn_mask() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:9, 7] = mask[0, 0] = mask[-1, -1] = 1
    code = coco_mask.encode(np.asfortranarray(mask))["counts"]
    one = box(0, 0, 40, 30, segmentation=Rle(HEIGHT, WIDTH, code), is_crowd=True)
    assert np.array_equal(object_mask(image(one)), mask)
    assert object_mask(image(one)).flags.c_contiguous
    assert object_pixels(image(one)) == 8


def test_what_counts() -> None:
    record = image(
        box(0, 0, 10, 10),
        box(0, 20, 10, 30, is_crowd=True, category_id=2),
        box(20, 0, 30, 10, is_difficult=True),
        outline(20, 20, 30, 20, 30, 25, 20, 25),
    )
    record = ImageRecord(
        1,
        "a",
        WIDTH,
        HEIGHT,
        (*record.instances[:3], Instance(4, 1, (20.0, 20, 40, 30), record.instances[3].segmentation)),
    )
    assert object_pixels(record) == 350
    assert object_pixels(record, crowd="exclude") == 250
    assert object_pixels(record, crowd="drop-image") == 350
    assert object_pixels(record, difficult="exclude") == 250
    assert object_pixels(record, ratio_from="boxes") == 500
    assert object_pixels(record, ratio_from="masks") == 50
    assert object_pixels(record, classes=frozenset([2])) == 100
    assert object_ratio(record) == (350, WIDTH * HEIGHT)
    with pytest.raises(TypeError):
        object_pixels(record, crowds="exclude")


def test_an_image_without_objects() -> None:
    assert object_ratio(image()) == (0, WIDTH * HEIGHT)
    assert object_mask(image()).shape == (HEIGHT, WIDTH)
    assert not object_mask(image()).any()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 400), (400, 1), (31, 33)])
def test_thin_images(width: int, height: int) -> None:
    whole = Instance(1, 1, (0.0, 0, width, height))
    record = ImageRecord(
        1, "a", width, height, (whole, Instance(2, 1, (0.0, 0, 1, 1), Polygons(parts=[[0, 0, 1, 0, 1, 1]])))
    )
    assert object_pixels(record) == width * height
    assert object_mask(record).all()


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.fractions(0, 1, max_denominator=1000))
def test_below_is_strict_and_exact(pixels: int, total: int, limit: Fraction) -> None:
    assert is_below(pixels, total, limit) == (Fraction(pixels, total) < limit)


def test_a_tie_is_not_below() -> None:
    assert not is_below(240, 1200, Fraction("0.2"))
    assert is_below(239, 1200, Fraction("0.2"))
    assert not is_below(61_440, 307_200, Fraction("0.2"))
    assert not is_below(3, 10, Fraction("0.3"))  # 3 / 10 < 0.3 is a matter of luck in floats


def test_masks_on_a_canvas_keep_their_pixels(tmp_path: Path) -> None:
    from sptcore.data.rasterize import on_canvas

    counts = [WIDTH * HEIGHT - 30, 30]
    code = coco_mask.frPyObjects({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)["counts"]
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:8, 3:13] = 1
    Image.fromarray(values).save(tmp_path / "m.png")
    record = image(
        box(1, 2, 3, 4),
        outline(-20, 5, 60, 5, 60, 12, -20, 12),
        box(0, 0, 9, 9, segmentation=Rle(HEIGHT, WIDTH, code)),
        box(0, 0, 9, 9, segmentation=MaskFile(tmp_path / "m.png", 1, "voc-object")),
    )
    moved = on_canvas(record, 3 * WIDTH, 2 * HEIGHT)
    assert moved[0] == record.instances[0]
    for before, after in zip(record.instances, moved, strict=True):
        mask = instance_mask(after, 2 * HEIGHT, 3 * WIDTH)
        assert np.array_equal(mask[:HEIGHT, :WIDTH], instance_mask(before, HEIGHT, WIDTH))
        assert mask.sum() == instance_mask(before, HEIGHT, WIDTH).sum()


class TestMaskPictures:
    def voc(self, tmp_path: Path) -> tuple[Path, np.ndarray]:
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[2:8, 3:13] = 1
        values[10:20, 3:9] = 2
        values[8, 3:13] = 255
        picture = Image.fromarray(values)
        picture.putpalette(range(256))
        picture.save(tmp_path / "m.png")
        return tmp_path / "m.png", values

    def test_voc_objects_and_void(self, tmp_path: Path) -> None:
        path, values = self.voc(tmp_path)
        first, second = (box(0, 0, 9, 9, segmentation=MaskFile(path, k, "voc-object")) for k in (1, 2))
        assert np.array_equal(object_mask(image(first)), values == 1)
        assert object_pixels(image(first, second)) == 120
        assert object_pixels(image(first, second), void="include") == 130
        assert object_pixels(image(first, second), overlap="sum") == 120
        assert object_pixels(image(first, box(30, 20, 40, 30))) == 160

    def test_bdd_instances(self, tmp_path: Path) -> None:
        values = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        values[2:8, 3:13] = (4, 0, 1, 44)
        values[10:20, 3:9] = (4, 0, 0, 44)
        Image.fromarray(values).save(tmp_path / "m.png")
        one = box(0, 0, 9, 9, segmentation=MaskFile(tmp_path / "m.png", 256 + 44, "bdd-bitmask"))
        assert object_pixels(image(one)) == 60

    def test_the_background_of_a_bitmask_is_not_instance_0(self, tmp_path: Path) -> None:
        values = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        values[2:8, 3:13] = (4, 0, 0, 0)
        Image.fromarray(values).save(tmp_path / "m.png")
        one = box(0, 0, 9, 9, segmentation=MaskFile(tmp_path / "m.png", 0, "bdd-bitmask"))
        assert object_pixels(image(one)) == 60

    def test_wrong_pictures_are_errors(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "small.png")
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "rgb.png")
        (tmp_path / "text.png").write_text("no")
        for name, words in [("small", "9x9"), ("rgb", "palette"), ("text", "not a PNG"), ("none", "missing")]:
            one = box(0, 0, 9, 9, segmentation=MaskFile(tmp_path / f"{name}.png", 1, "voc-object"))
            with pytest.raises(DataError, match=words):
                object_pixels(image(one))
