"""Selection: exact masks, straight-through gradients, closed forms of the noise, top-k, pooling of scores."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sptcore.ops.selection import (
    Selection,
    best_tokens,
    coarsen,
    gumbel_select,
    probability_to_logit,
    repeatable_noise,
    sample_noise,
    select_windows,
    topk_select,
)


def everywhere(logits):
    return torch.ones(logits.shape, dtype=torch.bool)


@pytest.mark.parametrize("noise", ["gumbel", "logistic"])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("score", [-8.0, -6.0, -4.6, 0.0])
def test_o14_selection_probability_matches_its_closed_form(noise, tau, score):
    """O14: the rate over 4e5 draws lies within 5 sigma of the closed form, for both noises and any tau."""
    torch.manual_seed(7)
    draws = 400_000
    logits = torch.full((1, 1, draws), score)
    rate = gumbel_select(logits, everywhere(logits), noise=noise, tau=tau).mean().item()
    margin = score - tau * math.log(0.01 / 0.99)
    expected = 1 - math.exp(-math.exp(margin)) if noise == "gumbel" else 1 / (1 + math.exp(-margin))
    sigma = math.sqrt(expected * (1 - expected) / draws)
    assert abs(rate - expected) <= 5 * sigma + 1e-6


def test_o14_the_two_noises_can_be_told_apart():
    """O14, negative control: with one score the two closed forms differ by far more than 5 sigma."""
    torch.manual_seed(7)
    logits = torch.full((1, 1, 400_000), -6.0)
    rates = [gumbel_select(logits, everywhere(logits), noise=noise).mean().item() for noise in ("gumbel", "logistic")]
    assert rates[0] - rates[1] > 5 * math.sqrt(0.22 * 0.78 / 400_000)


def test_o15_weight_is_exactly_zero_or_one_with_the_gradient_of_the_probability():
    """O15: forward equals the 0/1 mask bit for bit; d(weight)/d(logit) is that of the noisy sigmoid."""
    logits = (torch.randn(2, 40, 50) * 6).requires_grad_()
    weight = gumbel_select(logits, everywhere(logits), noise="none", tau=0.7)
    hard = torch.sigmoid(logits / 0.7) > 0.01
    assert torch.equal(weight, hard.float())
    (gradient,) = torch.autograd.grad(weight.sum(), logits)
    soft = torch.sigmoid(logits.detach() / 0.7)
    torch.testing.assert_close(gradient, soft * (1 - soft) / 0.7)


def test_without_gradient_the_weight_is_the_mask_itself():
    logits = torch.randn(1, 5, 5)
    weight = gumbel_select(logits, everywhere(logits), noise="none")
    assert not weight.requires_grad
    assert torch.equal(weight, (logits > math.log(0.01 / 0.99)).float())


def test_tokens_of_batch_padding_are_never_selected():
    logits = torch.full((2, 4, 4), 50.0)
    valid = torch.zeros(2, 4, 4, dtype=torch.bool)
    valid[0, :2, :3] = True
    assert torch.equal(gumbel_select(logits, valid, min_tokens_per_image=20) > 0, valid)


def test_a_minimum_of_tokens_an_image_takes_the_best():
    logits = torch.full((2, 3, 3), -50.0)
    logits[0, 1, 2], logits[0, 0, 0], logits[1] = -20.0, -10.0, 5.0
    weight = gumbel_select(logits, everywhere(logits), noise="none", min_tokens_per_image=2)
    assert weight[0].nonzero().tolist() == [[0, 0], [1, 2]]
    assert weight[1].all()


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_ends_of_the_threshold(threshold):
    logits = torch.randn(1, 4, 4) * 30
    selected = gumbel_select(logits, everywhere(logits), noise="none", threshold=threshold)
    assert selected.all() if threshold == 0.0 else not selected.any()
    assert probability_to_logit(threshold) == (-math.inf if threshold == 0.0 else math.inf)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 17, 30, 49, 50, 63, 130])
def test_topk_takes_the_ceiling_of_the_share_of_valid_tokens(ratio, size):
    scores = torch.randn(2, 1, size)
    valid = everywhere(scores)
    valid[1, :, size // 2 + 1 :] = False
    mask = topk_select(scores, valid, ratio=ratio)
    for image in range(2):
        tokens = int(valid[image].sum())
        expected = -(-round(ratio * 10) * tokens // 10)
        assert int(mask[image].sum()) == expected
        chosen, left = scores[image][mask[image]], scores[image][valid[image] & ~mask[image]]
        assert not (mask[image] & ~valid[image]).any()
        if len(chosen) and len(left):
            assert chosen.min() >= left.max()


def test_topk_breaks_ties_by_token_index():
    scores = torch.zeros(1, 2, 5)
    assert topk_select(scores, everywhere(scores), ratio=0.3).flatten().nonzero().flatten().tolist() == [0, 1, 2]


def test_best_tokens_takes_a_count_of_its_own_for_each_image():
    scores = torch.arange(8.0).view(2, 2, 2)
    mask = best_tokens(scores, everywhere(scores), torch.tensor([1, 3]))
    assert mask.flatten(1).tolist() == [[False, False, False, True], [False, True, True, True]]


def windows_by_rolling(activity, ratio, shift):
    """SparseViT's way in float64: pad, roll, view as windows of 7, norm, sort; -> the chosen windows of each image."""
    height, width = activity.shape[1:]
    shifts = [shift if side > 7 else 0 for side in (height, width)]
    padded = F.pad(activity.double(), (0, -width % 7, 0, -height % 7))
    rolled = torch.roll(padded, [-one for one in shifts], (1, 2))
    tiles = rolled.unflatten(2, (-1, 7)).unflatten(1, (-1, 7)).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
    scores = tiles.square().sum(-1).sqrt()
    chosen = torch.zeros_like(scores)
    chosen.scatter_(1, scores.argsort(1, descending=True)[:, : int(scores.shape[1] * ratio)], 1)
    whole = chosen.view(len(activity), padded.shape[1] // 7, -1).repeat_interleave(7, 1).repeat_interleave(7, 2)
    return torch.roll(whole, shifts, (1, 2))[:, :height, :width].bool()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(14, 21), (9, 30), (5, 17), (7, 7), (1, 1)])
def test_windows_are_selected_as_by_padding_and_rolling(size, shift, ratio):
    activity = torch.rand(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = select_windows(activity, everywhere(activity), ratio=ratio, window_size=7, shift_size=shift)
    assert torch.equal(mask, windows_by_rolling(activity, ratio, shift))


def test_windows_outside_the_image_are_neither_counted_nor_selected():
    """Of 2 x 4 windows the image reaches 1 x 3; half of these is one: the brightest inside, not of all."""
    activity = torch.ones(1, 14, 28)
    valid = everywhere(activity)
    valid[:, 5:], valid[:, :, 16:] = False, False
    activity[~valid] = 99.0
    activity[:, 2, 8] = 3.0
    mask = select_windows(activity, valid, ratio=0.5, window_size=7, shift_size=0)
    expected = torch.zeros_like(mask)
    expected[:, :5, 7:14] = True
    assert torch.equal(mask, expected)
    assert not torch.equal(select_windows(activity, everywhere(activity), ratio=0.5, window_size=7, shift_size=0), mask)


@pytest.mark.parametrize("shift", [0, 3])
def test_o20_equal_windows_are_taken_in_their_order(shift):
    """O20: one constant map, ties by window index; a window that is brighter by a hair comes first."""
    activity = torch.full((2, 14, 35), 0.3)
    mask = select_windows(activity, everywhere(activity), ratio=0.35, window_size=7, shift_size=shift)
    first = torch.zeros(2, 14, 35, dtype=torch.bool)
    first[:, :7, :21] = True  # 3 of 10
    assert torch.equal(mask, torch.roll(first, (shift, shift), (1, 2)))
    activity[:, 13 if shift == 0 else 2, 30] += 1e-3
    again = select_windows(activity, everywhere(activity), ratio=0.35, window_size=7, shift_size=shift)
    assert not torch.equal(again, mask)


def test_repeatable_noise_depends_on_the_place_alone():
    first, again = (repeatable_noise(torch.empty(3, 20, 30)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[2])
    assert torch.equal(repeatable_noise(torch.empty(1, 2, 3))[0], first[0, :2, :3]), "whatever padding lies beside it"
    assert len(first[0].unique()) == 600
    assert first.min() >= 0
    assert first.max() < 1
    quarters = torch.histc(repeatable_noise(torch.empty(1, 100, 100)), 4, 0, 1)
    assert ((quarters - 2500).abs() < 5 * (10_000 * 3 / 16) ** 0.5).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 7), (8, 9)])
def test_coarsen_is_the_maximum_of_two_by_two_in_ceil_mode(size):
    logits = torch.randn(2, *size)
    pooled = coarsen(logits, everywhere(logits))
    padded = F.pad(logits, (0, size[1] % 2, 0, size[0] % 2), value=-math.inf)
    expected = padded.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).amax((2, 4))
    assert torch.equal(pooled, expected)


def test_coarsen_lets_padding_lend_its_score_to_nobody():
    logits = torch.zeros(1, 4, 4)
    valid = everywhere(logits)
    valid[:, :, 3:], valid[:, 2:, :] = False, False
    logits[~valid] = 99.0
    pooled = coarsen(logits, valid)
    assert torch.equal(pooled[0, 0], torch.zeros(2))
    assert torch.equal(pooled[0, 1], torch.full((2,), -math.inf))


def test_a_selection_knows_its_gain_ratio_and_own_ratio():
    valid = torch.tensor([[[True, True], [True, False]]])
    logits = torch.tensor([[[2.0, -9.0], [0.5, 3.0]]])
    weight = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    selection = Selection(logits, weight, valid, own_logits=logits - 6, threshold=0.01)
    assert torch.equal(selection.gain, torch.sigmoid(logits) * weight)
    assert selection.counts.tolist() == [2]
    assert selection.ratio.item() == pytest.approx(2 / 3)
    assert selection.own_ratio is not None
    assert selection.own_ratio.item() == pytest.approx(1 / 3)  # logit(.01) = -4.595: only 2 - 6 is above
    plain = Selection(logits, weight, valid, gated=False)
    assert torch.equal(plain.gain, weight)
    assert plain.own_ratio is None


def test_wrong_arguments_are_named():
    logits = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match="tau"):
        gumbel_select(logits, everywhere(logits), tau=0.0)
    with pytest.raises(ValueError, match="noise"):
        sample_noise(logits, "uniform")
    with pytest.raises(ValueError, match="probability"):
        gumbel_select(logits, everywhere(logits), threshold=1.5)
    with pytest.raises(ValueError, match="ratio"):
        topk_select(logits, everywhere(logits), ratio=1.5)
    with pytest.raises(ValueError, match="ratio"):
        select_windows(logits, everywhere(logits), ratio=-0.1, window_size=7, shift_size=0)
