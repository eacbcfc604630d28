"""DynamicSwin: who decides, what the decision changes, and what both streams come to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sptcore.errors import UsageError
from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.dynamic import DynamicBlock, ratio_loss
from sptcore.models.predictor import PredictorLG
from sptcore.models.selectors import TokenContext
from sptcore.models.variants import backbone_config, build_backbone
from sptcore.ops.attend_selected import without_waiting
from sptcore.ops.selection import Selection, floor_share
from sptcore.profiling.forced import forced_selection
from tests.sptcore.models.oracles.test_dynamic_swin import SIZE, dynamic_config
from tests.support.networks import randomise, tokens
from tests.support.numerics import assert_differs, assert_same


def network(**settings) -> HierarchicalBackbone:
    model = HierarchicalBackbone(dynamic_config(**settings))
    return randomise(model)  # type: ignore[return-value]


def test_the_published_places_and_ratios():
    assert backbone_config("dynamicswin-t").predictor_blocks == (1, 2, 3)
    assert backbone_config("dynamicswin-b").predictor_blocks == (2, 4, 6)
    assert backbone_config("dynamicswin-s").keep_ratios == (0.7, 0.5, 0.3)
    kinds = [isinstance(block, DynamicBlock) for block in build_backbone("dynamicswin-s").stages[2].blocks]
    assert kinds == [False] * 2 + [True] * 16


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"keep_ratios": (0.7,)}, "keep_ratios"),
        ({"keep_ratios": (0.7, 0.5, 1.3)}, "keep_ratios"),
        ({"predictor_blocks": (1, 2, 6)}, "0..5"),
        ({"predictor_blocks": (2, 1, 3)}, "ascending"),
        ({"predictor_blocks": (), "keep_ratios": ()}, "go together"),
        ({"selector": "gate"}, "go together"),
        ({"bypass": "identity"}, "go together"),
        ({"attention": "spa"}, "attention"),
        ({"num_spa_blocks": 2}, "num_spa_blocks"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other(changes, word):
    with pytest.raises(UsageError, match=word):
        backbone_config("dynamicswin-t", **changes)


def test_a_config_comes_back_from_its_description():
    config = backbone_config("dynamicswin-t")
    assert type(config).from_dict(config.to_dict()) == config
    assert not {"predictor_blocks", "keep_ratios", "deformable_stages"} & set(backbone_config("spt-t").to_dict())


@pytest.mark.parametrize("size", [(96, 160), (70, 101), (20, 33)])
def test_evaluation_keeps_a_fixed_count_of_the_valid_tokens_of_each_image(size):
    model = network().eval()
    sizes = torch.tensor([size, [max(1, size[0] // 2), size[1]]])
    with torch.no_grad():
        selections = model(tokens(2, 3, *size), sizes).selections
    assert [(placed.stage, placed.block) for placed in selections] == [(3, 1), (3, 2), (3, 3)]
    for placed, ratio in zip(selections, (0.7, 0.5, 0.3), strict=True):
        valid = placed.selection.valid.flatten(1).sum(1)
        assert placed.selection.counts.tolist() == [int(count * int(ratio * 10)) // 10 for count in valid.tolist()]
        assert not placed.selection.gated
        assert placed.packing is None


def test_shares_are_exact_decimals():
    assert floor_share(torch.tensor([10, 100, 196, 0]), 0.3).tolist() == [3, 30, 58, 0]


def test_decisions_are_not_cumulative():
    """Later masks are not part of earlier ones."""
    selections = network(ratios=(0.2, 0.9, 0.3)).eval()(tokens(1, 3, *SIZE)).selections
    first, second, _ = (placed.selection.mask for placed in selections)
    assert (second & ~first).any()


def test_training_draws_lots_and_evaluation_does_not():
    model, images = network(), tokens(1, 3, *SIZE)

    def masks(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [placed.selection.mask for placed in model(images).selections]

    model.train()
    assert all(torch.equal(a, b) for a, b in zip(masks(0), masks(0), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(masks(0), masks(1), strict=True))
    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(masks(0), masks(1), strict=True))


@torch.no_grad()
def test_lots_fall_as_the_gumbel_softmax_over_keep_and_drop_would():
    """The share of ones of each token over many draws is its probability to be kept."""
    block = randomise(build_backbone("dynamicswin-nano")).stages[2].blocks[1].train()
    x, valid = tokens(1, 6, 10, 128), torch.ones(1, 6, 10, dtype=torch.bool)
    torch.manual_seed(0)
    draws = torch.stack([block.selector(x, x, TokenContext(valid)).weight for _ in range(600)])
    logits = block.selector(x, x, TokenContext(valid)).logits
    pairs = torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=-1)
    theirs = torch.stack([F.gumbel_softmax(pairs, tau=1.0, hard=True)[..., 0] for _ in range(600)])
    deviation = (torch.sigmoid(logits) * torch.sigmoid(-logits) / 600).sqrt()
    assert ((draws.mean(0) - torch.sigmoid(logits)).abs() < 5 * deviation + 1e-3).all()
    assert ((theirs.mean(0) - draws.mean(0)).abs() < 7 * deviation + 1e-3).all()


@torch.no_grad()
def test_an_image_in_a_batch_of_two_is_treated_as_alone():
    """The published code took an evaluation batch of two for a pair of streams."""
    model, images = network().eval(), tokens(2, 3, *SIZE)
    together = model(images)
    for number in range(2):
        alone = model(images[number : number + 1])
        for key, value in alone.maps.items():
            assert_same(together.maps[key][number], value[0], tolerance=1e-5)
        for one, other in zip(together.selections, alone.selections, strict=True):
            assert torch.equal(one.selection.mask[number], other.selection.mask[0])


@torch.no_grad()
def test_padding_does_not_move_a_decision():
    predictor = randomise(PredictorLG(16))
    x, valid = tokens(1, 6, 10, 16), torch.ones(1, 6, 10, dtype=torch.bool)
    padded = F.pad(x, (0, 0, 0, 4, 0, 2), value=7.0)
    inside = F.pad(valid, (0, 4, 0, 2))
    assert_same(predictor(padded, inside)[:, :6, :10], predictor(x, valid), tolerance=1e-5)
    assert_differs(predictor(padded, torch.ones_like(inside))[:, :6, :10], predictor(x, valid))


@torch.no_grad()
def test_tokens_outside_the_mask_take_the_short_way():
    """One block by hand: attention for all, then one of two networks."""
    block = randomise(build_backbone("dynamicswin-nano")).stages[2].blocks[1].eval()
    x = tokens(2, 6, 10, 128)
    output = block(x, TokenContext(torch.ones(2, 6, 10, dtype=torch.bool)))
    mask = output.selection.mask
    attended = x + block.attn.proj(block.attn(block.norm1(x), None).tokens)
    expected = attended + torch.where(mask[..., None], block.mlp(block.norm2(attended)), block.fast(attended))
    assert_same(output.tokens, expected, tolerance=1e-5)
    with without_waiting():
        again = block(x, TokenContext(torch.ones(2, 6, 10, dtype=torch.bool)))
    assert_same(again.tokens, expected, tolerance=1e-5)


@torch.no_grad()
def test_streams_travel_side_by_side_through_training():
    """Two blocks under changing masks, by the rule written out: a stream keeps what the mask did not give it."""
    first, second = randomise(network()).stages[2].blocks[1:3].train()
    x, valid = tokens(1, 6, 10, 64), torch.ones(1, 6, 10, dtype=torch.bool)
    context = TokenContext(valid)
    torch.manual_seed(3)
    outputs = [first(x, context)]
    outputs.append(second(outputs[0].tokens, context))
    slow = fast = x
    for block, output in zip((first, second), outputs, strict=True):
        m = output.selection.weight[..., None]
        x = slow * m + fast * (1 - m)
        x = x + block.attn.proj(block.attn(block.norm1(x), None).tokens)
        slow, fast = x * m + slow * (1 - m), x * (1 - m) + fast * m
        slow, fast = x + block.mlp(block.norm2(slow)), x + block.fast(fast)
        assert_same(output.tokens, slow * m + fast * (1 - m), tolerance=1e-5)
    assert not torch.equal(outputs[0].selection.mask, outputs[1].selection.mask)


def test_every_parameter_gets_a_gradient():
    """None is unused, as averaging over processes demands, and none of the new ones stays at zero."""
    model = network().train()
    features = model(tokens(2, 3, *SIZE))
    (sum(value.pow(3).mean() for value in features.maps.values()) + features.losses["loss_ratio"]).backward()
    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_a_mask_reaches_the_predictor_without_the_ratio_loss():
    model = network().train()
    sum(value.pow(3).mean() for value in model(tokens(1, 3, *SIZE)).maps.values()).backward()
    assert all(model.stages[2].blocks[n].selector.predictor.view.weight.grad.any() for n in (1, 2, 3))


def test_the_ratio_loss_by_hand():
    """10 x mean over decisions and images: (.5 - .7)^2 and (1 - .7)^2, then (0 - .5)^2 twice."""
    valid = torch.ones(2, 2, 2, dtype=torch.bool)
    valid[1, 1] = False
    half = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    selections = [Selection(half, half, valid, gated=False), Selection(half, 0 * half, valid, gated=False)]
    expected = 10 * ((0.04 + 0.09) / 2 + 0.25) / 2
    assert ratio_loss(selections, (0.7, 0.5)).item() == pytest.approx(expected, rel=1e-6)
    assert ratio_loss(selections[:1], (0.75,)).item() == pytest.approx(10 * 0.0625, rel=1e-6)


def test_the_ratio_loss_belongs_to_training():
    model, images = network(), tokens(1, 3, *SIZE)
    losses = model.train()(images).losses
    assert set(losses) == {"loss_ratio"}
    assert losses["loss_ratio"] > 0
    assert model.eval()(images).losses == {}


def test_masks_can_be_forced():
    model = network().eval()
    masks = [tokens(1, 6, 10, seed=seed) > 0 for seed in range(3)]
    with torch.no_grad(), forced_selection(model, masks):
        selections = model(tokens(1, 3, *SIZE)).selections
    assert all(torch.equal(one.selection.mask, mask) for one, mask in zip(selections, masks, strict=True))
