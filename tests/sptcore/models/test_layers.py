"""The layers around attention, against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.swin_transformer import PatchMerging as TorchvisionMerging

from sptcore.models.layers import DropPath, Gate, Mlp, PatchEmbed, PatchMerging
from tests.support.networks import tokens
from tests.support.numerics import assert_same


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (1, 6)])
def test_merging_equals_torchvisions_on_even_and_odd_grids(size):
    theirs = TorchvisionMerging(12)
    ours = PatchMerging(12)
    ours.load_state_dict(theirs.state_dict())
    x = tokens(2, *size, 12)
    assert_same(ours(x), theirs(x), tolerance=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 10), (1, 3)])
def test_patches_pad_the_image_with_zeros_to_a_multiple_of_four(size):
    embed = PatchEmbed(6)
    image = tokens(1, 3, *size)
    padded = torch.zeros(1, 3, -(-size[0] // 4) * 4, -(-size[1] // 4) * 4)
    padded[:, :, : size[0], : size[1]] = image
    assert torch.equal(embed(image), embed(padded))
    assert embed(image).shape == (1, padded.shape[2] // 4, padded.shape[3] // 4, 6)


def test_the_feed_forward_network_is_the_same_with_and_without_gradient():
    mlp, x = Mlp(8, 32), tokens(50, 8)
    with torch.no_grad():
        assert torch.equal(mlp(x), mlp(x.clone().requires_grad_()).detach())


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    dropped = drop(torch.ones(4000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (dropped.flatten(1).std(1) == 0).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(dropped), dropped)


def test_drop_path_drops_the_packed_rows_of_an_image_together():
    torch.manual_seed(0)
    image_id = torch.arange(200).repeat_interleave(3)
    rows = DropPath(0.5)(torch.ones(600, 2), image_id, 300)
    by_image = rows.view(200, 6)
    assert (by_image == by_image[:, :1]).all()
    assert set(rows.unique().tolist()) == {0.0, 2.0}


def test_a_gate_answers_in_single_precision_or_better():
    gate = Gate(8, bias_init=4.0)
    assert gate.bias_init == 4.0
    assert gate.bfloat16()(tokens(3, 8).bfloat16()).dtype == torch.float32
    assert gate.double()(tokens(3, 8).double()).dtype == torch.float64
    assert gate.double()(tokens(2, 3, 8).double()).shape == (2, 3)
