"""One geometry for pixels, boxes, masks and selection labels."""

from __future__ import annotations

import numpy as np
import pytest

from sptcore.labels.geometry import Geometry, fit, whole_image
from sptcore.labels.pyramid import levels
from sptcore.labels.transform import labels_for
from sptcore.training.augment import draw_geometry
from sptcore.training.config import TrainConfig, load_preset, make_config

PAPER = make_config(load_preset("detect-paper"))


def drawn(config: TrainConfig, width: int, height: int, count: int = 200) -> list[Geometry]:
    return [draw_geometry(config, width, height, np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize(
    ("size", "out"),
    [((640, 480), (1067, 800)), ((480, 640), (800, 1067)), ((1280, 720), (1333, 750)), ((50, 50), (800, 800))],
)
def test_an_image_fits_the_resolution_in_either_orientation(size: tuple[int, int], out: tuple[int, int]) -> None:
    assert fit(*size, long_side=1333, short_side=800) == out
    assert whole_image(*size, (1333, 800)).out == out


def test_flip_crop_and_resize_move_a_box_as_they_move_pixels() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[10:20, 6:26] = 255
    geometry = Geometry((60, 40), True, (20, 4, 60, 34), (80, 60))
    moved = geometry.image(image)
    assert moved.shape == (60, 80, 3)
    # flipped: columns 34..54; cropped: 14..34, rows 6..16; doubled
    assert geometry.boxes(np.array([[6, 10, 26, 20]])).tolist() == [[28.0, 12.0, 68.0, 32.0]]
    rows, columns = np.nonzero(moved[..., 0] > 127)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (28, 68, 12, 32)


def test_a_mask_keeps_its_place_and_stays_binary() -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:20, 6:26] = 1
    moved = Geometry((60, 40), False, (0, 0, 60, 40), (90, 60)).mask(mask)
    assert set(np.unique(moved)) == {0, 1}
    rows, columns = np.nonzero(moved)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (9, 39, 15, 30)


def test_a_box_outside_the_crop_has_no_extent() -> None:
    boxes = Geometry((60, 40), False, (30, 0, 60, 40), (30, 40)).boxes(np.array([[0, 0, 20, 20], [20, 0, 40, 40]]))
    assert boxes.tolist() == [[0, 0, 0, 20], [0, 0, 10, 40]]


@pytest.mark.parametrize("flip", [False, True])
def test_labels_without_resizing_are_the_levels_of_the_moved_mask(flip: bool) -> None:
    """Crop and flip in whole pixels: looking up through the affine equals pooling the moved mask."""
    generator = np.random.default_rng(4)
    mask = (generator.random((90, 130)) < 0.002).astype(np.uint8)
    geometry = Geometry((130, 90), flip, (17, 5, 118, 71), (101, 66))
    moved = levels(geometry.mask(mask), (8, 16, 32))
    looked_up = labels_for(mask, geometry.affine, geometry.out, (8, 16, 32))
    for stride in (8, 16, 32):
        assert np.array_equal(moved[stride], looked_up[stride])


def test_every_object_pixel_of_an_upscaled_mask_has_a_label() -> None:
    """Resizing: a token with a pixel of the moved mask is always labelled, whatever the draw."""
    mask = np.zeros((480, 640), dtype=np.uint8)
    mask[100:180, 200:290] = mask[400:402, 600:602] = 1
    for geometry in drawn(PAPER, 640, 480, 12):
        moved = levels(geometry.mask(mask), (16,))[16]
        assert not (moved & ~labels_for(mask, geometry.affine, geometry.out, (16,))[16]).any()


def test_the_papers_draws_are_those_of_the_recipe() -> None:
    geometries = drawn(PAPER, 640, 480, 400)
    whole = [one for one in geometries if one.crop == (0, 0, 640, 480)]
    flips = sum(one.flip for one in geometries)
    assert 150 < len(whole) < 250
    assert 150 < flips < 250
    assert {min(one.out) for one in whole} == set(range(480, 801, 32))
    for one in geometries:
        x1, y1, x2, y2 = one.crop
        assert 0 <= x1 < x2 <= 640
        assert 0 <= y1 < y2 <= 480
        assert max(one.out) <= 1333
        assert min(one.out) <= 800


def test_crops_have_the_recipes_size() -> None:
    """At 800 pixels a crop has sides of 384 to 600 pixels of an image whose short side is 400, 500 or 600."""
    crops = [one.crop for one in drawn(PAPER, 600, 600, 300) if one.crop != (0, 0, 600, 600)]
    widths = np.array([x2 - x1 for x1, _, x2, _ in crops]) / 600
    assert widths.min() >= 384 / 600 - 0.01
    assert widths.max() <= 1
    assert widths.min() < 0.7


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (31, 33)])
def test_odd_sizes_are_drawn_too(size: tuple[int, int]) -> None:
    image = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for geometry in drawn(PAPER, *size, 30):
        assert geometry.image(image).shape[:2] == geometry.out[::-1]
