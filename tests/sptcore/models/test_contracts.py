"""One contract a table: every variant, every attention, every selector."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sptcore.models.attention import ATTENTIONS
from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.config import BackboneConfig
from sptcore.models.selectors import SELECTORS, TokenContext
from sptcore.models.variants import VARIANTS, build_backbone
from sptcore.ops.selection import Selection
from tests.support.networks import DIM, HEADS, randomise, small_config, tokens
from tests.support.numerics import assert_same

PARAMETERS = {  # torchvision's counts without the head, plus norm0 .. norm2, plus C + 1 for each gate
    "swin-t": 28_288_354 - 769_000 + 2 * (96 + 192 + 384),
    "swin-s": 49_606_258 - 769_000 + 2 * (96 + 192 + 384),
    "swin-b": 87_768_224 - 1_025_000 + 2 * (128 + 256 + 512),
    "vit-s": 22_050_664 - 385_000,  # DeiT-S
    "vit-b": 86_567_656 - 769_000,
    "vit-gt-b": 86_567_656 - 769_000,
    "evit-s": 22_050_664 - 385_000,
}
GATES = {"t": 4_041, "s": 8_661, "b": 11_541}  # of the families that have gates; the others have Swin's parameters
GATED, UNGATED = ("spt", "topk-tokens"), ("topk-windows", "swin-gt", "spt-gt")
DENSE = ("swin", "dat", "vit")  # families of which no block selects


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_built_with_the_parameters_it_should_have(name):
    with torch.device("meta"):
        model = build_backbone(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    family, _, size = name.rpartition("-")
    if name in PARAMETERS:
        assert count == PARAMETERS[name]
    elif size in GATES and family in (*GATED, *UNGATED):
        assert count == PARAMETERS[f"swin-{size}"] + (GATES[size] if family in GATED else 0)
    assert (family in DENSE) == (not model.config.num_spa_blocks)
    assert len(model.out_channels) == len(model.strides) == (1 if model.config.is_plain else 4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_spa_blocks": 3},
        {"num_spa_blocks": 0},
        {"selector": "topk"},
        {"attention": "window_gather"},
        {"selector": "topk_windows", "attention": "window_gather", "bypass": "skip_block"},
        {"selector": "topk_windows"},
        {"selector": "random", "attention": "window_gather", "bypass": "proj"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(64, 80), (70, 45), (5, 130), (1, 1)])
@pytest.mark.parametrize("training", [False, True])
def test_a_backbone_keeps_its_contract_at_any_size(settings, size, training):
    model = HierarchicalBackbone(small_config(**settings)).train(training)
    sizes = torch.tensor([[size[0], size[1]], [max(1, size[0] // 2), size[1]]])
    features = model(tokens(2, 3, *size), sizes)
    assert list(features.maps) == ["0", "1", "2", "3"]
    for (key, value), stride, channels in zip(features.maps.items(), model.strides, model.out_channels, strict=True):
        assert value.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride)), key
        assert value.isfinite().all()
    places = [(placed.stage, placed.block) for placed in features.selections]
    assert places == sorted(places)
    assert len(places) == model.config.num_spa_blocks
    for placed in features.selections:
        valid = placed.selection.valid.flatten(1).sum(1).tolist()
        grid = [[-(-int(side) // placed.stride) for side in row] for row in sizes.tolist()]
        assert valid == [height * width for height, width in grid]
        assert not (placed.selection.mask & ~placed.selection.valid).any()
        assert 0 <= placed.padding_fraction < 1
        assert placed.packing is not None
        assert torch.equal(placed.packing.counts, placed.selection.counts)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("shift", [0, 3])
def test_every_attention_keeps_its_contract(name, shift):
    """Tokens in, heads joined out, on the grid or in rows with their packing; gradients reach every parameter."""
    config = BackboneConfig(embed_dim=DIM // 4, num_heads=(1, 1, HEADS, 4))
    attention = randomise(ATTENTIONS[name](DIM, HEADS, shift, config))
    x = tokens(2, 9, 10, DIM).requires_grad_()
    weight = (tokens(2, 9, 10, seed=1) > 0).float()
    selection = Selection(tokens(2, 9, 10, seed=2), weight, torch.ones(2, 9, 10).bool())
    attended = attention(x, selection)
    if attended.packing is None:
        assert attended.tokens.shape == x.shape
    else:
        assert attended.tokens.shape == (int(weight.sum()), DIM)
        assert torch.equal(attended.packing.counts, selection.counts)
    attention.proj(attended.tokens).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in attention.parameters())
    assert x.grad is not None
    attention.eval()
    with torch.no_grad():
        again = attention(x, selection).tokens
    if attended.packing is None:
        assert_same(again, attended.tokens, tolerance=1e-6)


def windows_with(mask):
    """Windows of 7 in which a token of `mask` (9, 10) lies."""
    return int(F.max_pool2d(mask[None, None].float(), 7, ceil_mode=True).sum())


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("topk_score", ["gate", "l2"])
def test_every_selector_keeps_its_contract(name, training, topk_score):
    """A 0/1 weight on valid tokens only, fp32 logits, a ratio; a gain only where a gate decided."""
    config = BackboneConfig(topk_score=topk_score, gate_bias_init=-4.0)
    selector = randomise(SELECTORS[name](DIM, config)).train(training)
    x = tokens(2, 9, 10, DIM)
    valid = torch.ones(2, 9, 10, dtype=torch.bool)
    valid[1, 5:] = False
    label = tokens(2, 9, 10, seed=3) > 0
    selection = selector(x, x, TokenContext(valid, tokens(2, 9, 10, seed=4), label))
    assert selection.logits.shape == selection.weight.shape == (2, 9, 10)
    assert selection.logits.dtype == torch.float32
    assert set(selection.weight.unique().tolist()) <= {0.0, 1.0}
    assert not (selection.mask & ~valid).any()
    assert selection.ratio == selection.mask.sum() / valid.sum()
    assert selection.gated == (selection.own_logits is not None)
    assert torch.equal(selection.gain == 0, ~selection.mask)
    if name == "ground_truth":
        assert torch.equal(selection.mask, label & valid)
    if name == "all":
        assert torch.equal(selection.mask, valid)
    if name in ("topk", "random") or (name == "predictor" and not training):
        assert selection.counts.tolist() == [45, 25]
    if name == "topk_windows":  # half of 2 x 2 windows; of the one row of them that image 1 reaches
        assert [windows_with(mask) for mask in selection.mask] == [2, 1]
