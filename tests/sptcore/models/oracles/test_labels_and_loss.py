"""O17, O19 and O24: label pyramids, the selection loss, ground-truth selection."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sptcore.labels.pyramid import box_levels, levels
from sptcore.models.backbone import Features, HierarchicalBackbone, PlacedSelection
from sptcore.ops.selection import Selection, coarsen
from sptcore.tasks.base import select_loss
from tests.support.networks import randomise, small_config, tokens

STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize("size", [(64, 96), (97, 121), (1, 33), (33, 1), (375, 500)])
def test_o17_each_level_is_the_pooled_finer_level(size):
    """O17: maxpool_2(y_k) == y_2k for every k, in ceil mode on odd sizes; y_k is the pooled pixel mask."""
    generator = np.random.default_rng(0)
    mask = (generator.random(size) < 0.02).astype(np.uint8)
    grids = levels(mask, STRIDES)
    for stride in STRIDES:
        pooled = F.max_pool2d(torch.from_numpy(mask).float()[None, None], stride, ceil_mode=True)[0, 0].bool()
        assert torch.equal(torch.from_numpy(grids[stride]), pooled)
    for fine, coarse in pairwise(STRIDES):
        pooled = F.max_pool2d(torch.from_numpy(grids[fine]).float()[None, None], 2, ceil_mode=True)[0, 0].bool()
        assert torch.equal(torch.from_numpy(grids[coarse]), pooled)


def test_o17_boxes_by_formula_equal_pooled_touched_pixels():
    """O17: columns floor(x1/k) .. ceil(x2/k)-1 and rows likewise are the pooled raster of the touched pixels."""
    generator = np.random.default_rng(1)
    mismatches = 0
    for _ in range(300):
        height, width = generator.integers(5, 90, 2)
        corners = np.sort(generator.random((2, 2)) * [width, height], axis=0)
        corners = np.round(
            corners, int(generator.integers(0, 3))
        )  # whole, one and two decimals: edges on cell edges too
        box = (corners[0, 0], corners[0, 1], corners[1, 0], corners[1, 1])
        raster = np.zeros((height, width), dtype=np.uint8)
        if box[2] > box[0] and box[3] > box[1]:
            raster[math.floor(box[1]) : math.ceil(box[3]), math.floor(box[0]) : math.ceil(box[2])] = 1
        analytic = box_levels(np.array([box]), width=width, height=height, strides=STRIDES)
        mismatches += sum(not np.array_equal(analytic[k], levels(raster, STRIDES)[k]) for k in STRIDES)
    assert mismatches == 0


def test_o17_pooling_scores_or_probabilities_is_the_same():
    """O17: sigmoid(maxpool s) == maxpool(sigmoid s), bit for bit."""
    logits = tokens(2, 11, 13) * 5
    valid = torch.ones(2, 11, 13, dtype=torch.bool)
    assert torch.equal(torch.sigmoid(coarsen(logits, valid)), coarsen(torch.sigmoid(logits), valid))


def features_with(score):
    """Two maps of scores, s0 at stride 8 and a block at stride 16, and labels; image 1 is padded on the right."""
    labels = {8: tokens(2, 8, 10, seed=1) > 0.5, 16: tokens(2, 4, 5, seed=2) > 0.5}
    placed = []
    for stride, stage in ((8, 2), (16, 3)):
        valid = torch.ones_like(labels[stride])
        valid[1, :, 3:] = False
        logits = score(labels[stride].float(), valid)
        placed.append(PlacedSelection(Selection(logits, valid.float(), valid), stage, 0, stride))
    return Features({"3": torch.zeros(1)}, tuple(placed[1:]), placed[0]), labels


def test_o19_certain_and_right_costs_nothing():
    """O19: s = 40 (2y - 1) gives less than 1e-6; the opposite costs 40 a map."""
    features, labels = features_with(lambda y, valid: 40 * (2 * y - 1))
    assert select_loss(features, labels).item() < 1e-6
    features, labels = features_with(lambda y, valid: -40 * (2 * y - 1))
    assert select_loss(features, labels).item() == pytest.approx(80)


def test_o19_knowing_nothing_costs_ln_2_a_map():
    """O19: s = 0 gives ln 2 for each of the two maps, whatever the labels."""
    features, labels = features_with(lambda y, valid: torch.zeros_like(y))
    assert select_loss(features, labels).item() == pytest.approx(2 * math.log(2))


def test_o19_padding_does_not_count():
    """O19: scores and labels outside the image change nothing, not even where they are extreme; inside they do."""

    def loss(outside, inside=0.0, flip=False):
        features, labels = features_with(lambda y, valid: torch.where(valid, y + inside, outside))
        if flip:
            masks = {8: features.entry.selection.valid, 16: features.selections[0].selection.valid}
            labels = {stride: label ^ ~masks[stride] for stride, label in labels.items()}
        return select_loss(features, labels).item()

    assert loss(0.0) == loss(1e4) == loss(-1e4, flip=True)
    assert loss(0.0) != loss(0.0, inside=0.5)


def test_o19_a_weight_of_zero_leaves_the_task_gradients_bit_equal():
    """O19: alpha = 0 changes no bit of any gradient; alpha = .01 does in the gates."""
    labels = {8: torch.ones(2, 8, 10).bool(), 16: torch.ones(2, 4, 5).bool(), 32: torch.ones(2, 2, 3).bool()}

    def gradients(weight):
        model = randomise(HierarchicalBackbone(small_config(noise="none")))
        features = model(tokens(2, 3, 64, 80))
        loss = sum(value.square().mean() for value in features.maps.values())
        if weight is not None:
            loss = loss + weight * select_loss(features, labels)
        loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    without, zero, weighted = gradients(None), gradients(0.0), gradients(0.01)
    changed = [name for name in without if not torch.equal(without[name], weighted[name])]
    assert any("gate" in name for name in changed)
    for name, gradient in without.items():
        assert torch.equal(gradient, zero[name]), name


@pytest.mark.parametrize("training", [False, True])
def test_o24_ground_truth_selection_is_the_label(training):
    """O24: sel == y & valid bit for bit at each scale, and the reported ratio is the label's, in any mode."""
    model = HierarchicalBackbone(small_config(selector="ground_truth")).train(training)
    assert not any("gate" in name for name, _ in model.named_parameters())
    labels = {16: tokens(2, 4, 5, seed=2) > 0.5, 32: tokens(2, 2, 3, seed=3) > 0.5}
    sizes = torch.tensor([[64, 80], [31, 64]])
    features = model(tokens(2, 3, 64, 80), sizes, labels)
    assert features.entry is None
    assert [placed.stride for placed in features.selections] == [16, 16, 32, 32]
    for placed in features.selections:
        expected = labels[placed.stride] & placed.selection.valid
        assert torch.equal(placed.selection.mask, expected)
        assert torch.equal(placed.selection.gain, expected.float())
        assert placed.selection.ratio == expected.sum() / placed.selection.valid.sum()
        assert placed.selection.valid.sum() < placed.selection.valid.numel()
    assert select_loss(features, labels) == 0


def test_o24_without_labels_it_says_what_is_missing():
    model = HierarchicalBackbone(small_config(selector="ground_truth"))
    with pytest.raises(ValueError, match="select_labels"):
        model(tokens(1, 3, 64, 64))
    with pytest.raises(ValueError, match="grid"):
        model(tokens(1, 3, 64, 64), None, {16: torch.ones(1, 3, 4).bool(), 32: torch.ones(1, 2, 2).bool()})
