"""Mixup and CutMix by brute force: pixels, classes, selection labels, and draws that follow from seed and pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sptcore.labels.pyramid import levels
from sptcore.tasks.base import Batch
from sptcore.training.config import TrainConfig, make_config
from sptcore.training.mixing import Mix, apply_mix, draw_mix, mixed

SIDE, STRIDES = 64, (8, 16, 32)


def masks_of(count: int, seed: int = 0, cell: int = 1) -> np.ndarray:
    """Object masks (count, SIDE, SIDE), constant on squares of `cell` pixels."""
    coarse = np.random.default_rng(seed).random((count, SIDE // cell, SIDE // cell)) < (0.02 if cell == 1 else 0.3)
    return coarse.repeat(cell, 1).repeat(cell, 2).astype(np.uint8)


def batch_of(masks: np.ndarray, extent: tuple[int, int] = (SIDE, SIDE)) -> Batch:
    count = len(masks)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 3, SIDE, SIDE), np.uint8))
    sizes = torch.full((count, 2), SIDE)
    targets = [
        {"classes": torch.eye(count)[number], "extent": torch.tensor(extent)} for number in range(count)
    ]  # fmt: skip
    grids = [levels(mask, STRIDES) for mask in masks]
    labels = {stride: torch.from_numpy(np.stack([grid[stride] for grid in grids])) for stride in STRIDES}
    return Batch(images, sizes, sizes.clone(), list(range(count)), targets, labels)


def config_of(**changes: object) -> TrainConfig:
    return make_config({"task": "classify", **changes})


def test_mixup_blends_pixels_classes_and_takes_either_images_labels() -> None:
    masks = masks_of(3)
    batch = batch_of(masks)
    mix = apply_mix(batch, Mix(0.7))
    for number in range(3):
        own, other = batch.images[number].float(), batch.images[2 - number].float()
        torch.testing.assert_close(mix.images[number], 0.7 * own + 0.3 * other)
        either = levels(masks[number] | masks[2 - number], STRIDES)
        assert all(np.array_equal(mix.select_labels[stride][number].numpy(), either[stride]) for stride in STRIDES)
    assert mix.targets[0]["classes"].tolist() == pytest.approx([0.7, 0, 0.3])
    assert mix.targets[1]["classes"].tolist() == pytest.approx([0, 1, 0])
    assert batch.targets[0]["classes"].tolist() == [1, 0, 0]  # the batch itself is untouched
    assert batch.images.dtype == torch.uint8


def test_cutmix_pastes_pixels_and_counts_the_share_that_is_left() -> None:
    batch = batch_of(masks_of(2))
    mix = apply_mix(batch, Mix(1 - 10 * 20 / SIDE**2, (5, 7, 15, 27)))
    expected = batch.images.clone()
    expected[:, :, 5:15, 7:27] = batch.images.flip(0)[:, :, 5:15, 7:27]
    assert torch.equal(mix.images, expected)
    assert mix.targets[0]["classes"].tolist() == pytest.approx([1 - 200 / SIDE**2, 200 / SIDE**2])


@pytest.mark.parametrize("rectangle", [(0, 0, 64, 64), (32, 0, 64, 32), (0, 32, 32, 64), (32, 32, 32, 50)])
def test_labels_of_a_paste_along_cells_are_those_of_the_pasted_mask(rectangle: tuple[int, int, int, int]) -> None:
    masks = masks_of(2, cell=2)
    y1, x1, y2, x2 = rectangle
    pasted = masks.copy()
    pasted[:, y1:y2, x1:x2] = masks[::-1, y1:y2, x1:x2]
    mix = apply_mix(batch_of(masks), Mix(0.5, rectangle))
    for number in range(2):
        exact = levels(pasted[number], STRIDES)
        assert all(np.array_equal(mix.select_labels[stride][number].numpy(), exact[stride]) for stride in STRIDES)


@pytest.mark.parametrize("seed", range(8))
def test_labels_of_any_paste_hold_every_object_pixel_and_nothing_of_cells_far_away(seed: int) -> None:
    """Cell by cell: outside the paste the own label, inside it the other's, on its edge either's."""
    generator = np.random.default_rng(seed)
    (y1, y2), (x1, x2) = (sorted(generator.integers(0, SIDE + 1, 2).tolist()) for _ in range(2))
    masks = masks_of(2, seed, cell=4)
    pasted = masks.copy()
    pasted[:, y1:y2, x1:x2] = masks[::-1, y1:y2, x1:x2]
    mix = apply_mix(batch_of(masks), Mix(0.5, (y1, x1, y2, x2)))
    inside = np.zeros((SIDE, SIDE), bool)
    inside[y1:y2, x1:x2] = True
    for stride in STRIDES:
        for row in range(SIDE // stride):
            for column in range(SIDE // stride):
                cell = slice(row * stride, (row + 1) * stride), slice(column * stride, (column + 1) * stride)
                for number in range(2):
                    own, other = masks[number][cell].any(), masks[1 - number][cell].any()
                    wanted = own if not inside[cell].any() else other if inside[cell].all() else own or other
                    found = bool(mix.select_labels[stride][number, row, column])
                    assert found == wanted
                    assert found or not pasted[number][cell].any()


def test_draws_follow_from_seed_and_pass_and_have_the_right_law() -> None:
    batch = batch_of(masks_of(2))
    config = config_of(mixup=0.8, cutmix=1.0)
    torch.manual_seed(1)
    one = mixed(batch, config, 5)
    torch.manual_seed(2)
    np.random.seed(3)
    assert torch.equal(mixed(batch, config, 5).images, one.images)
    assert any(not torch.equal(mixed(batch, config, other).images, one.images) for other in (6, 7))
    assert not torch.equal(mixed(batch, config_of(mixup=0.8, cutmix=1.0, seed=1), 5).images, one.images)
    draws = [draw_mix(config, (64, 64), np.random.default_rng(number)) for number in range(400)]
    cuts = [draw for draw in draws if draw is not None and draw.rectangle is not None]
    assert None not in draws
    assert 0.4 < len(cuts) / 400 < 0.6
    assert 0.45 < np.mean([draw.share for draw in cuts]) < 0.75  # Beta(1, 1), less what edges cut off
    for draw in cuts:
        y1, x1, y2, x2 = draw.rectangle or (0, 0, 0, 0)
        assert 0 <= y1 <= y2 <= 64
        assert draw.share == 1 - (y2 - y1) * (x2 - x1) / 64**2
    kept = [draw_mix(config_of(mixup=0.8, mix_prob=0.3), (64, 64), np.random.default_rng(n)) for n in range(400)]
    assert 0.6 < sum(draw is None for draw in kept) / 400 < 0.8


def test_a_paste_stays_within_the_image_on_its_canvas() -> None:
    batch = batch_of(masks_of(2), extent=(32, 32))
    config = config_of(cutmix=1.0)
    for number in range(20):
        changed = (mixed(batch, config, number).images != batch.images).any(1).any(0)
        assert not changed[32:].any()
        assert not changed[:, 32:].any()


def test_images_of_two_sizes_are_pasted_where_both_have_pixels_and_reach_as_far_as_the_larger() -> None:
    batch = batch_of(masks_of(2))
    sizes = torch.tensor([[64, 48], [40, 64]])
    targets = [{**target, "extent": size} for target, size in zip(batch.targets, sizes, strict=True)]
    batch = replace(batch, image_sizes=sizes, targets=targets)
    for number in range(20):
        one = mixed(batch, config_of(cutmix=1.0), number)
        changed = (one.images != batch.images).any(1).any(0)
        assert not changed[40:].any()
        assert not changed[:, 48:].any()
        assert one.image_sizes.tolist() == [[64, 64], [64, 64]]


def test_nothing_is_mixed_without_asking_or_without_classes() -> None:
    batch = batch_of(masks_of(2))
    assert mixed(batch, config_of(), 0) is batch
    boxes = replace(batch, targets=[{"boxes": torch.zeros(0, 4)}] * 2)
    assert mixed(boxes, config_of(mixup=1.0), 0) is boxes
    unlabelled = apply_mix(replace(batch, select_labels=None), Mix(0.5))
    assert unlabelled.select_labels is None
