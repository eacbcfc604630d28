"""Levels against a cell-by-cell definition, nesting (O17), boxes without a raster, awkward sizes (faults 71, 72)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptcore.labels.pyramid import box_levels, checked_strides, grid_shape, levels, pool2

ALL_STRIDES = (1, 2, 4, 8, 16, 32, 64)
SIZES = [(1, 1), (31, 33), (1, 4000), (4000, 1), (32, 64), (427, 640), (8, 7), (65, 63)]


def brute_force(mask: np.ndarray, stride: int) -> np.ndarray:
    rows, columns = math.ceil(mask.shape[0] / stride), math.ceil(mask.shape[1] / stride)
    grid = np.zeros((rows, columns), dtype=bool)
    for row in range(rows):
        for column in range(columns):
            cell = mask[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            grid[row, column] = cell.any()
    return grid


def touch_raster(boxes, width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        x1, x2 = max(x1, 0), min(x2, width)
        y1, y2 = max(y1, 0), min(y2, height)
        if x1 < x2 and y1 < y2:
            mask[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)] = 1
    return mask


sides = st.integers(1, 90)


@st.composite
def masks(draw):
    height, width = draw(sides), draw(sides)
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.002, 0.05, 0.5, 1.0]))
    return (np.random.default_rng(seed).random((height, width)) < density).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(masks())
def test_levels_are_the_touch_rule_cell_by_cell(mask):
    grids = levels(mask, ALL_STRIDES)
    assert list(grids) == list(ALL_STRIDES)
    for stride, grid in grids.items():
        assert grid.dtype == np.bool_
        assert grid.shape == grid_shape(*mask.shape, stride)
        np.testing.assert_array_equal(grid, brute_force(mask, stride))


@settings(max_examples=100, deadline=None)
@given(masks(), st.sampled_from(ALL_STRIDES[:-1]))
def test_maxpool_of_level_k_is_level_2k(mask, stride):
    np.testing.assert_array_equal(pool2(levels(mask, [stride])[stride]), levels(mask, [2 * stride])[2 * stride])


@pytest.mark.parametrize("size", SIZES)
def test_awkward_sizes_empty_and_full(size):
    for value in (0, 1):
        for stride, grid in levels(np.full(size, value, np.uint8), ALL_STRIDES).items():
            assert grid.shape == (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
            assert grid.all() if value else not grid.any()


@pytest.mark.parametrize("size", SIZES)
def test_a_single_pixel_lights_exactly_its_own_cell(size):
    rng = np.random.default_rng(5)
    for _ in range(20):
        y, x = rng.integers(size[0]), rng.integers(size[1])
        mask = np.zeros(size, np.uint8)
        mask[y, x] = 1
        for stride, grid in levels(mask, ALL_STRIDES).items():
            assert np.argwhere(grid).tolist() == [[y // stride, x // stride]]


def test_strides_without_neighbours_and_any_order():
    mask = (np.random.default_rng(1).random((100, 77)) < 0.01).astype(np.uint8)
    grids = levels(mask, (32, 4, 32))
    assert list(grids) == [4, 32]
    np.testing.assert_array_equal(grids[32], brute_force(mask, 32))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float32])
def test_any_value_but_zero_is_an_object_pixel_in_any_dtype_and_memory_order(dtype):
    mask = (np.random.default_rng(2).random((64, 96)) < 0.01).astype(dtype) * dtype(1)
    if dtype is np.int32:
        mask = mask * 256  # its lowest byte is 0
    expected = brute_force(mask, 8)
    np.testing.assert_array_equal(levels(mask, [8])[8], expected)
    np.testing.assert_array_equal(levels(np.asfortranarray(mask), [8])[8], expected)
    np.testing.assert_array_equal(levels(mask[:, ::-1], [8])[8], expected[:, ::-1])


def test_the_mask_is_not_written_to():
    mask = np.ones((40, 40), np.uint8)
    mask.flags.writeable = False
    levels(mask, ALL_STRIDES)
    assert mask.all()


quarter = st.integers(-40, 500).map(lambda n: n / 4)
boxes_strategy = st.lists(st.tuples(quarter, quarter, quarter, quarter), max_size=6)


@settings(max_examples=300, deadline=None)
@given(boxes_strategy, sides, sides)
def test_box_levels_equal_the_pooled_touch_raster(boxes, width, height):
    analytic = box_levels(boxes, width=width, height=height, strides=ALL_STRIDES)
    pooled = levels(touch_raster(boxes, width, height), ALL_STRIDES)
    for stride in ALL_STRIDES:
        np.testing.assert_array_equal(analytic[stride], pooled[stride], err_msg=f"stride {stride}")


def test_box_levels_on_many_random_boxes():
    rng = np.random.default_rng(11)
    for _ in range(1500):
        width, height = rng.integers(1, 200, 2)
        corners = rng.normal(80, 60, (rng.integers(0, 5), 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
        analytic = box_levels(boxes, width=int(width), height=int(height), strides=(4, 8, 16, 32))
        pooled = levels(touch_raster(boxes.tolist(), int(width), int(height)), (4, 8, 16, 32))
        assert all(np.array_equal(analytic[k], pooled[k]) for k in pooled)


def test_a_pixel_raster_by_centres_is_not_the_touch_raster():
    """Negative control: rounding the box to pixel centres first loses cells."""
    box = [(15.6, 0.0, 16.4, 8.0)]
    analytic = box_levels(box, width=32, height=8, strides=[16])[16]
    assert analytic.tolist() == [[True, True]]
    by_centres = np.zeros((8, 32), np.uint8)
    by_centres[:, math.ceil(15.6 - 0.5) : math.ceil(16.4 - 0.5)] = 1
    assert levels(by_centres, [16])[16].tolist() != analytic.tolist()


@pytest.mark.parametrize("strides", [(), (0,), (3,), (8, 12), (-8,), (2048,)])
def test_wrong_strides_are_refused(strides):
    with pytest.raises(ValueError, match="powers of two"):
        checked_strides(strides)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5,), (2, 2, 2)])
def test_masks_without_pixels_are_refused(shape):
    with pytest.raises(ValueError, match="mask"):
        levels(np.zeros(shape, np.uint8), [8])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="finite"):
        box_levels([(0, 0, value, 5)], width=10, height=10)
