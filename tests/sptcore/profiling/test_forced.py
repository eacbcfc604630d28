from __future__ import annotations

import pytest
import torch

from sptcore.models.variants import build_backbone
from sptcore.profiling.forced import blob_masks, randomise_biases, selected_tokens


@pytest.mark.parametrize(("ratio", "tokens", "expected"), [(0.25, 10, 3), (0.22, 4000, 880), (0, 9, 0), (1, 9, 9)])
def test_a_ratio_means_the_nearest_count(ratio: float, tokens: int, expected: int) -> None:
    assert selected_tokens(ratio, tokens) == expected


@pytest.mark.parametrize("grid", [(50, 80), (1, 7), (25, 3), (1, 1)])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5, 1.0])
def test_masks_have_exactly_their_count(grid: tuple[int, int], ratio: float) -> None:
    masks = blob_masks(3, grid, ratio, torch.Generator().manual_seed(0))
    assert masks.shape == (3, *grid)
    assert masks.flatten(1).sum(1).tolist() == [selected_tokens(ratio, grid[0] * grid[1])] * 3


def test_masks_are_blobs_and_differ() -> None:
    """Neighbours mostly agree, where independent tokens would disagree 2 * .25 * .75 = 37 % of the time."""
    first, second = blob_masks(2, (50, 80), 0.25, torch.Generator().manual_seed(0))
    assert not torch.equal(first, second)
    assert (first[:, 1:] != first[:, :-1]).float().mean() < 0.1
    again = blob_masks(2, (50, 80), 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(again[1], second)


def test_each_image_may_have_its_own_ratio() -> None:
    masks = blob_masks(3, (10, 10), [0.1, 0.5, 0.9], torch.Generator().manual_seed(0))
    assert masks.flatten(1).sum(1).tolist() == [10, 50, 90]
    with pytest.raises(ValueError, match="2 ratios for a batch of 3"):
        blob_masks(3, (10, 10), [0.1, 0.5], torch.Generator())


def test_no_bias_stays_zero_and_none_that_was_set_changes() -> None:
    backbone = build_backbone("spt-nano", gate_bias_init=4.0)
    randomise_biases(backbone, torch.Generator().manual_seed(0))
    biases = {name: value for name, value in backbone.named_parameters() if name.endswith("bias")}
    assert all(value.any() for value in biases.values())
    assert all(value.item() == 4.0 for name, value in biases.items() if name.endswith("gate.bias"))
