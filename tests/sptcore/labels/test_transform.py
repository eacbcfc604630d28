"""Labels through a transform, against an exact test of every cell and against annotations rasterised afterwards."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptcore.labels.pyramid import box_levels, levels
from sptcore.labels.transform import Affine, ObjectTable, labels_for


def exact_labels(mask: np.ndarray, affine: Affine, out_size, stride: int) -> np.ndarray:
    """Each cell's pre-image in fractions, tried against every object pixel: the definition, slowly."""
    pixels = [(int(x), int(y)) for y, x in np.argwhere(mask)]
    rows, columns = math.ceil(out_size[1] / stride), math.ceil(out_size[0] / stride)

    def interval(start: int, length: int, scale: Fraction, shift: Fraction) -> tuple[Fraction, Fraction]:
        ends = [(Fraction(edge) - shift) / scale for edge in (start, min(start + stride, length))]
        return min(ends), max(ends)

    def overlaps(pixel: int, span: tuple[Fraction, Fraction]) -> bool:
        return max(span[0], pixel) < min(span[1], pixel + 1)

    grid = np.zeros((rows, columns), dtype=bool)
    for row in range(rows):
        high = interval(row * stride, out_size[1], affine.scale_y, affine.shift_y)
        for column in range(columns):
            wide = interval(column * stride, out_size[0], affine.scale_x, affine.shift_x)
            grid[row, column] = any(overlaps(x, wide) and overlaps(y, high) for x, y in pixels)
    return grid


@st.composite
def sparse_masks(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(0, 5))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[y : y + draw(st.integers(1, 3)), x : x + draw(st.integers(1, 3))] = 1
    return mask


@st.composite
def views(draw):
    """A mask and an augmentation of it: flips, resize, jitter, crop or pad, in the order a pipeline applies them."""
    mask = draw(sparse_masks())
    height, width = mask.shape
    affine = Affine()
    if draw(st.booleans()):
        affine = affine.then(Affine.flip_horizontal(width))
    if draw(st.booleans()):
        affine = affine.then(Affine.flip_vertical(height))
    size = (draw(st.integers(1, 70)), draw(st.integers(1, 70)))
    affine = affine.then(Affine.resize((width, height), size))
    if draw(st.booleans()):
        jitter = st.floats(0.3, 3.0, allow_nan=False)
        affine = affine.then(Affine(scale_x=draw(jitter), scale_y=draw(jitter)))
    offset = st.integers(-30, 30) | st.fractions(-20, 20, max_denominator=97) | st.floats(-20, 20)
    affine = affine.then(Affine.translate(draw(offset), draw(offset)))
    out_size = (draw(st.integers(1, 70)), draw(st.integers(1, 70)))
    return mask, affine, out_size


@settings(max_examples=250, deadline=None)
@given(views())
def test_equals_the_exact_test_of_every_cell(view):
    mask, affine, out_size = view
    grids = labels_for(mask, affine, out_size, (4, 8, 16))
    for stride, grid in grids.items():
        np.testing.assert_array_equal(grid, exact_labels(mask, affine, out_size, stride), err_msg=f"stride {stride}")


@settings(max_examples=40, deadline=None)
@given(views())
def test_down_to_single_pixels(view):
    mask, affine, out_size = view
    out_size = (min(out_size[0], 24), min(out_size[1], 24))
    np.testing.assert_array_equal(labels_for(mask, affine, out_size, [1])[1], exact_labels(mask, affine, out_size, 1))


@settings(max_examples=100, deadline=None)
@given(sparse_masks())
def test_identity_equals_the_stored_levels_bit_for_bit(mask):
    stored = levels(mask, (1, 4, 8, 16, 32))
    looked_up = labels_for(mask, Affine(), (mask.shape[1], mask.shape[0]), (1, 4, 8, 16, 32))
    assert list(stored) == list(looked_up)
    for stride, grid in stored.items():
        assert grid.tobytes() == looked_up[stride].tobytes()
        assert grid.shape == looked_up[stride].shape


@settings(max_examples=100, deadline=None)
@given(sparse_masks())
def test_flips_pads_and_crops_by_whole_pixels_equal_the_moved_mask(mask):
    height, width = mask.shape
    flipped = labels_for(mask, Affine.flip_horizontal(width), (width, height), [4])[4]
    np.testing.assert_array_equal(flipped, levels(mask[:, ::-1], [4])[4])
    padded = labels_for(mask, Affine.translate(3, 5), (width + 3, height + 5), [4])[4]
    np.testing.assert_array_equal(padded, levels(np.pad(mask, ((5, 0), (3, 0))), [4])[4])
    top, left = height // 3, width // 3
    cropped = labels_for(mask, Affine.translate(-left, -top), (width - left, height - top), [4])[4]
    np.testing.assert_array_equal(cropped, levels(mask[top:, left:], [4])[4])
    doubled = labels_for(mask, Affine.resize((width, height), (2 * width, 2 * height)), (2 * width, 2 * height), [8])[8]
    np.testing.assert_array_equal(doubled, levels(mask, [4])[4])


def gap(first: tuple[float, float], second: tuple[float, float]) -> float:
    return max(first[0] - second[1], second[0] - first[1])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_differs_from_annotations_rasterised_afterwards_by_less_than_a_native_pixel(seed):
    """Only cells that an object's edge misses by less than one native pixel may differ, and then ours is the 1."""
    rng = np.random.default_rng(seed)
    width, height = (int(n) for n in rng.integers(20, 200, 2))
    corners = rng.uniform(0, 1, (3, 2, 2)) * (width, height)
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    touch = levels_mask(boxes, width, height)
    out = tuple(int(n) for n in rng.integers(20, 250, 2))
    affine = Affine.resize(
        (width, height), (int(out[0] * rng.uniform(0.5, 2)) + 1, int(out[1] * rng.uniform(0.5, 2)) + 1)
    )
    if seed % 2:
        affine = Affine.flip_horizontal(width).then(affine)
    affine = affine.then(Affine.translate(*rng.integers(-20, 20, 2).tolist()))
    ours = labels_for(touch, affine, out, [8])[8]
    afterwards = box_levels(affine.boxes(boxes), width=out[0], height=out[1], strides=[8])[8]
    back = affine.inverse()
    for row, column in np.argwhere(ours != afterwards):
        cell = (8 * column, 8 * row, min(8 * column + 8, out[0]), min(8 * row + 8, out[1]))
        x1, y1, x2, y2 = back.boxes(np.array([cell]))[0]
        nearest = min(max(gap((x1, x2), (b[0], b[2])), gap((y1, y2), (b[1], b[3]))) for b in boxes)
        assert -1e-6 < nearest < 1 + 1e-6
        assert ours[row, column]


def levels_mask(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    return box_levels(boxes, width=width, height=height, strides=[1])[1].astype(np.uint8)


def test_moving_the_stored_grid_instead_misses_cells():
    """Negative control: the grid carried through the same transform is not the truth."""
    mask = np.zeros((64, 64), np.uint8)
    mask[8:16, 8:16] = 1
    affine = Affine.translate(4, 0)
    truth = labels_for(mask, affine, (64, 64), [8])[8]
    moved = np.roll(levels(mask, [8])[8], round(4 / 8), axis=1)
    assert truth[1].tolist() == [False, True, True, False, False, False, False, False]
    assert not np.array_equal(moved, truth)


def test_float_noise_flips_no_cell():
    """A thirds-and-back resize is the identity in fractions; in floats it lets cells reach across their edge."""
    mask = np.zeros((600, 600), np.uint8)
    mask[:, 320:] = 1
    truth = levels(mask, [8])[8]
    exact = Affine.resize((600, 600), (200, 200)).then(Affine.resize((200, 200), (600, 600)))
    assert exact.is_identity
    np.testing.assert_array_equal(labels_for(mask, exact, (600, 600), [8])[8], truth)
    noisy = Affine(scale_x=Fraction(200 / 600)).then(Affine(scale_x=Fraction(600 / 200)))
    assert labels_for(mask, noisy, (600, 600), [8])[8][0].sum() == truth[0].sum() + 1


def test_one_table_serves_many_views():
    mask = (np.random.default_rng(0).random((50, 70)) < 0.01).astype(np.uint8)
    table = ObjectTable.of(mask)
    assert table.size == (70, 50)
    affine = Affine.resize((70, 50), (33, 81))
    np.testing.assert_array_equal(labels_for(table, affine, (33, 81))[8], labels_for(mask, affine, (33, 81))[8])


def test_a_view_beside_the_image_is_empty():
    mask = np.ones((10, 10), np.uint8)
    for shift in (-100, 100):
        assert not labels_for(mask, Affine.translate(shift, 0), (20, 20), [4])[4].any()


def test_composition_and_inverse_are_exact():
    affine = Affine(Fraction(-7, 3), Fraction(5, 11), Fraction(2, 9), Fraction(-1, 7))
    assert affine.then(affine.inverse()) == Affine()
    assert affine.inverse().then(affine).is_identity
    assert affine.then(Affine.translate(1, 2)).shift_x == Fraction(5, 11) + 1
    assert affine.then(Affine(scale_x=2)).scale_x == Fraction(-14, 3)


def test_boxes_keep_their_corners_in_order():
    moved = Affine.flip_horizontal(100).then(Affine.translate(0, 3)).boxes(np.array([[10, 20, 30, 40]]))
    assert moved.tolist() == [[70, 23, 90, 43]]
    assert Affine().boxes(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("value", [0, float("nan"), float("inf")])
def test_maps_without_an_inverse_are_refused(value):
    with pytest.raises(ValueError):
        Affine(scale_x=value)


def test_empty_outputs_and_masks_are_refused():
    with pytest.raises(ValueError, match="pixel"):
        labels_for(np.ones((3, 3)), Affine(), (0, 5))
    with pytest.raises(ValueError, match="mask"):
        labels_for(np.ones((3, 0)), Affine(), (5, 5))
