"""The oracles O22 and O23, and selection by ground truth against dense attention with a mask."""

from __future__ import annotations

import math

import pytest
import torch

from sptcore.models.vit import attention, pruning
from sptcore.models.vit.attention import GlobalAttention, class_attention, policy_softmax
from sptcore.models.vit.pruning import scheduled_rate
from sptcore.profiling.timing import peak_memory
from tests.support.networks import randomise, tokens
from tests.support.numerics import assert_differs, assert_same
from tests.support.plain import SMALL, small_vit


@pytest.mark.parametrize(("dtype", "eps", "tolerance"), [(torch.float32, 1e-6, 1e-6), (torch.float64, 0.0, 4e-16)])
def test_o22_masked_attention_of_the_kept_is_attention_among_the_kept(dtype, eps, tolerance):
    attention = randomise(GlobalAttention(32, 2)).to(dtype)
    x = tokens(1, 20, 32, dtype=dtype) / 3  # mild scores: eps weighs more where a dropped token had by far the highest
    policy = (tokens(1, 20, seed=1) > 0).to(dtype)
    policy[:, 0] = 1
    kept = policy[0] > 0.5
    query, key, _ = attention.heads(x)
    scores = query @ key.transpose(-2, -1) / math.sqrt(16)
    masked = policy_softmax(scores, policy, None, eps)[:, :, kept][..., kept]
    pruned = scores[:, :, kept][..., kept].softmax(-1)
    assert_same(masked, pruned, tolerance=tolerance)
    assert_differs(policy_softmax(scores, torch.ones_like(policy), None, eps)[:, :, kept][..., kept], pruned)


def test_o22_a_dropped_token_attends_to_the_kept_and_itself():
    policy = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    weights = policy_softmax(torch.zeros(1, 1, 4, 4, dtype=torch.float64), policy, None, 0.0)[0, 0]
    assert_same(weights[1], torch.tensor([1, 1, 1, 0.0], dtype=torch.float64) / 3, tolerance=1e-15)
    assert_same(weights[0], torch.tensor([1, 0, 1, 0.0], dtype=torch.float64) / 2, tolerance=1e-15)


def test_o22_the_whole_model_pruned_is_the_model_masked_by_the_same_decisions(monkeypatch):
    """Training with the decisions evaluation takes, and no eps: map and class token are the same in float64."""
    model = small_vit("predictor", torch.float64, policy_eps=0.0)
    images = tokens(2, 3, 96, 80, dtype=torch.float64)
    sizes = torch.tensor([[96, 80], [64, 70]])
    with torch.no_grad():
        pruned = model(images, sizes)
        decisions = iter([one.selection.weight.flatten(1) for one in pruned.selections])
        monkeypatch.setattr(pruning, "gumbel_select", lambda logits, valid, **settings: next(decisions))
        masked = model.train()(images, sizes)
    inside = pruned.selections[0].selection.valid.unsqueeze(1)
    assert_same(masked.pooled, pruned.pooled, tolerance=1e-13)
    assert_same(masked.maps["2"] * inside, pruned.maps["2"] * inside, tolerance=1e-13)


def test_dropped_tokens_keep_the_value_they_had_when_dropped():
    model = small_vit("predictor")
    images = tokens(1, 3, 64, 64)
    values = {}
    model.blocks[0].register_forward_hook(lambda block, given, output: values.setdefault("before", output))
    with torch.no_grad():
        features = model(images)
        expected = model.norm(values["before"])[0, 1:]
    gone = ~features.selections[0].selection.mask.flatten()
    found = features.maps["2"][0].flatten(1).T
    assert 0 < gone.sum() < 16
    assert torch.equal(found[gone], expected[gone])
    assert_differs(found[~gone], expected[~gone])


def test_the_ratio_loss_is_what_the_hand_computes():
    model = small_vit("predictor").train()
    torch.manual_seed(3)
    features = model(tokens(2, 3, 64, 64), torch.tensor([[64, 64], [32, 64]]))
    terms = []
    for number, one in enumerate(features.selections, start=1):
        counts = one.selection.mask.flatten(1).sum(1).tolist()
        shares = [counts[0] / 16, counts[1] / 8]
        terms.append(sum((share - 0.7**number) ** 2 for share in shares) / 2)
    assert features.losses["loss_ratio"].item() == pytest.approx(2.0 * sum(terms) / 2, rel=1e-5)
    features.losses["loss_ratio"].backward()
    assert all(one.grad is not None and one.grad.any() for one in model.pruning.parameters())


def test_decisions_are_cumulative_and_drawn():
    model = small_vit("predictor").train()
    images = tokens(2, 3, 128, 128)
    torch.manual_seed(0)
    first, second = (model(images).selections[0].selection.mask for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, model(images).selections[0].selection.mask)


def test_a_token_is_drawn_with_the_probability_its_predictor_says():
    """Two-class Gumbel-softmax: 0.8 here; one Gumbel sample alone would keep 0.98."""
    model = small_vit("predictor").train()
    last = model.pruning.predictors["1"].score[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([math.log(0.8), math.log(0.2)]))
        torch.manual_seed(0)
        first = model(tokens(8, 3, 256, 256)).selections[0].selection
    share, deviation = first.ratio.item(), math.sqrt(0.8 * 0.2 / first.mask.numel())
    assert abs(share - 0.8) < 5 * deviation


@pytest.mark.parametrize("training", [False, True])
def test_a_predictor_averages_over_the_tokens_that_are_left(training):
    model = small_vit("predictor").train(training)
    averaged = []
    for predictor in model.pruning.predictors.values():
        predictor.register_forward_hook(lambda module, given, output: averaged.append(given[1].squeeze(1) > 0.5))
    sizes = torch.tensor([[96, 80], [64, 70]])
    features = model(tokens(2, 3, 96, 80), sizes)
    first = features.selections[0].selection
    assert torch.equal(averaged[0], first.valid.flatten(1))
    if training:
        assert torch.equal(averaged[1], first.mask.flatten(1))
    else:
        assert averaged[1].sum(1).tolist() == first.counts.tolist()


def test_o23_a_keep_rate_of_one_is_vit_bit_for_bit():
    images = tokens(2, 3, 96, 80)
    sizes = torch.tensor([[96, 80], [64, 70]])
    vit, evit = small_vit("none"), small_vit("class_attention", keep_rate=1.0)
    with torch.no_grad():
        one, other = vit(images, sizes), evit(images, sizes)
        pruned = small_vit("class_attention")(images, sizes)
    assert torch.equal(one.maps["2"], other.maps["2"])
    assert torch.equal(one.pooled, other.pooled)
    assert_differs(one.pooled, pruned.pooled)


def test_o23_the_fused_token_is_the_attention_weighted_sum_of_the_dropped():
    """Against one image taken apart by hand: attention of block 1, its 12 best of 16, one token made of the other 4."""
    model = small_vit("class_attention")
    entered, fed = {}, {}
    model.blocks[1].norm1.register_forward_hook(lambda norm, given, output: entered.update(x=given[0], normed=output))
    model.blocks[1].norm2.register_forward_hook(lambda norm, given, output: fed.update(x=given[0]))
    with torch.no_grad():
        features = model(tokens(1, 3, 64, 64))
        block = model.blocks[1]
        query, key, _ = block.attn.heads(entered["normed"])
        attended = entered["x"] + block.attn(entered["normed"])
        score = (query @ key.transpose(-2, -1) / math.sqrt(16)).softmax(-1)[0, :, 0, 1:].mean(0)
    best = score.topk(12).indices
    kept = torch.zeros(16, dtype=torch.bool).index_fill_(0, best, True)
    assert torch.equal(features.selections[0].selection.mask.flatten(), kept)
    fused = (score[~kept, None] * attended[0, 1:][~kept]).sum(0)
    assert fed["x"].shape == (1, 1 + 12 + 1, 32)
    assert_same(fed["x"][0, -1], fused, tolerance=1e-6)
    assert_same(fed["x"][0, 1:-1], attended[0, 1:][kept], tolerance=1e-6)
    assert_differs(fed["x"][0, -1], attended[0, 1:][~kept].sum(0))


def test_without_fusing_the_dropped_are_gone():
    model = small_vit("class_attention", fuse_token=False)
    seen = {}
    model.blocks[3].register_forward_hook(lambda block, given, output: seen.update(x=output))
    with torch.no_grad():
        model(tokens(1, 3, 64, 64))
    assert seen["x"].shape[1] == 1 + math.ceil(0.7 * math.ceil(0.7 * 16))


def test_class_attention_leaves_padding_out():
    query, key = tokens(1, 2, 6, 16), tokens(1, 2, 6, 16, seed=1)
    valid = torch.tensor([[True, True, True, True, False, False]])
    scores = class_attention(query, key, valid)
    assert_same(scores[:, :3], class_attention(query[:, :, :4], key[:, :, :4], None), tolerance=1e-6)
    assert not scores[:, 3:].any()


def step_under_policy(layer: GlobalAttention, valid: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Output and every gradient, that of a policy with zeros in it too."""
    x = tokens(2, 20, 24, dtype=torch.float64).requires_grad_()
    policy = (tokens(2, 20, seed=1) > 0).double()
    policy[:, 0] = 1
    if valid is not None:
        policy = policy * valid
    policy.requires_grad_()
    output = layer.under_policy(x, policy, valid, 1e-3)
    named = {"input": x, "policy": policy, **dict(layer.named_parameters())}
    found = torch.autograd.grad(output.pow(3).sum(), [*named.values()])
    dropped = found[1][policy == 0]
    assert valid is not None or (dropped != 0).all()  # what a mask of -inf would lose
    return {"output": output.detach(), **dict(zip(named, found, strict=True))}


@pytest.mark.parametrize("padded", [False, True])
def test_attention_under_a_policy_is_the_whole_matrix_piece_by_piece(monkeypatch, padded):
    torch.manual_seed(0)
    layer = GlobalAttention(24, 3).double()
    valid = (torch.arange(20) < torch.tensor([[14], [20]])) if padded else None
    x = tokens(2, 20, 24, dtype=torch.float64)
    query, key, value = layer.heads(x)
    policy = torch.ones(2, 20, dtype=torch.float64) if valid is None else valid.double()
    plain = policy_softmax(query @ key.mT / 8**0.5, policy, valid, 1e-3) @ value
    assert_same(layer.under_policy(x, policy, valid, 1e-3), layer.join(plain), tolerance=1e-12)
    whole = step_under_policy(layer, valid)
    monkeypatch.setattr(attention, "pairs_at_once", lambda device: 2 * 3 * 20 * 7)
    for name, found in step_under_policy(layer, valid).items():
        assert_same(found, whole[name], tolerance=1e-12)


def test_training_under_a_policy_does_not_hold_every_pair(monkeypatch):
    layer, policy = GlobalAttention(24, 3), torch.ones(1, 600, requires_grad=True)
    x, peaks = tokens(1, 600, 24).requires_grad_(), []
    for pairs in (1 << 24, 1 << 17):
        monkeypatch.setattr(attention, "pairs_at_once", lambda device, pairs=pairs: pairs)
        peaks.append(peak_memory(lambda: layer.under_policy(x, policy, None, 1e-6).sum().backward()))
    assert peaks[1] < 0.35 * peaks[0]


def test_attention_under_a_policy_leaves_padding_out():
    """Though padding has the highest scores, and eps weighs much here."""
    scores = tokens(1, 2, 6, 6, dtype=torch.float64)
    scores[..., 4:] += 9
    policy = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    valid = torch.tensor([[True, True, True, True, False, False]])
    weights = policy_softmax(scores, policy, valid, 0.1)[:, :, :4]
    assert_same(weights[..., :4], policy_softmax(scores[:, :, :4, :4], policy[:, :4], None, 0.1), tolerance=1e-15)
    assert not weights[..., 4:].any()


def test_ground_truth_selection_is_dense_attention_under_a_mask():
    """Fig. 4: positives and the class token among themselves; negatives take the feed-forward network only."""
    model = small_vit("ground_truth", torch.float64)
    images = tokens(2, 3, 64, 80, dtype=torch.float64)
    label = tokens(2, 4, 5, seed=2) > 0.3
    label[1] = False  # an image without objects: its class token attends to itself
    with torch.no_grad():
        features = model(images, None, {16: label})
        start = model._start(model.patch_embed(images), None, None)
        x = start.row.x
        positive = torch.nn.functional.pad(label.flatten(1), (1, 0), value=True)
        for block in model.blocks:
            attended = block.attn(block.norm1(x), positive)
            x = block.feed(x + torch.where(positive.unsqueeze(-1), attended, 0.0))
        expected = model.norm(x)
    assert_same(features.pooled, expected[:, 0], tolerance=1e-12)
    assert_same(features.maps["2"].flatten(2).transpose(1, 2), expected[:, 1:], tolerance=1e-12)
    assert all(torch.equal(one.selection.mask, label) for one in features.selections)


def test_the_keep_rate_follows_the_run():
    span = SMALL.shrink_span
    assert [scheduled_rate(share, 0.7, span) for share in (0.0, 0.03, 1 / 3, 0.5, 1.0)] == [1, 1, 0.7, 0.7, 0.7]
    assert scheduled_rate((1 / 30 + 1 / 3) / 2, 0.7, span) == pytest.approx(0.85)
    epochs = [scheduled_rate(epoch / 300, 0.7, span) for epoch in range(301)]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[9] == 1.0 > epochs[11]
    assert epochs[99] > 0.7 == epochs[100]


def test_the_schedule_acts_in_training_alone():
    model = small_vit("class_attention")
    images = tokens(1, 3, 64, 64)
    model.apply_schedule(0.0)
    with torch.no_grad():
        assert model(images).selections[0].selection.counts.item() == 12
        assert model.train()(images).selections[0].selection.counts.item() == 16
        model.apply_schedule(1.0)
        assert model(images).selections[0].selection.counts.item() == 12
    assert "train_rate" not in model.state_dict()
