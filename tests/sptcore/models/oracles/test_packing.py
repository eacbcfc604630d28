"""O6 to O12 at the level of a block: who sees whom, what unselected tokens and empty images get, what batches do."""

from __future__ import annotations

import pytest
import torch

from sptcore.models.backbone import HierarchicalBackbone
from tests.sptcore.ops.test_packing import random_mask
from tests.support.networks import DIM, Fixed, context, our_block, small_config, tokens
from tests.support.numerics import assert_differs, assert_same

GRID = (12, 15)


def run(mask, x=None, shift=0, logits=None, **settings):
    """Tokens after a block that selects `mask`, and the block."""
    block = our_block(Fixed(mask, logits), shift, **settings)
    x = tokens(*mask.shape, DIM) if x is None else x
    with torch.no_grad():
        return block(x, context(x)).tokens, block


@pytest.mark.parametrize("length", [150, 400])
def test_o07_one_container_makes_order_and_shift_irrelevant(length):
    """O7: with L >= P a block gives one result whatever the shift or the packing (spatial bias); with L = 49 not."""
    mask = random_mask([40, 0, 63])
    results = [
        run(mask, shift=shift, eval_packing=packing, container_len=length)[0]
        for shift in (0, 3)
        for packing in ("stream", "aligned")
    ]
    for other in results[1:]:
        assert_same(other, results[0], tolerance=2e-6)
    assert_differs(run(mask, shift=0)[0], run(mask, shift=3)[0])


@pytest.mark.parametrize("grad", [False, True])
def test_o09_unselected_tokens_take_only_the_feed_forward_network(grad):
    """O9: identity leaves the attention branch exactly 0; `proj` on zero tokens differs by exactly proj.bias."""
    mask = random_mask([20, 0, 63])
    x = tokens(*mask.shape, DIM)
    block = our_block(Fixed(mask))
    with torch.set_grad_enabled(grad):
        ours = block(x, context(x)).tokens
        expected = x + block.mlp(block.norm2(x))
        assert_same(ours[~mask], expected[~mask], tolerance=1e-6)
        assert_differs(ours[mask], expected[mask])
        literal = our_block(Fixed(mask), bypass="proj")
        literal.norm1.weight.data.zero_()
        literal.norm1.bias.data.zero_()
        moved = x + literal.attn.proj.bias
        expected = moved + literal.mlp(literal.norm2(moved))
        assert_same(literal(x, context(x)).tokens[~mask], expected[~mask], tolerance=1e-6)


def test_o09_the_literal_bypass_projects_gated_tokens():
    """Eq. 9 to the letter: an unselected token adds W_o (sigmoid(s) x LN(x)) + b_o."""
    mask = random_mask([30, 5])
    logits = tokens(*mask.shape, seed=3)
    x = tokens(*mask.shape, DIM)
    ours, block = run(mask, x, logits=logits, bypass="proj")
    with torch.no_grad():
        moved = x + block.attn.proj(torch.sigmoid(logits).unsqueeze(-1) * block.norm1(x))
        expected = moved + block.mlp(block.norm2(moved))
    assert_same(ours[~mask], expected[~mask], tolerance=1e-6)


@pytest.mark.parametrize("bypass", ["identity", "proj", "skip_block"])
@pytest.mark.parametrize("shift", [0, 3])
def test_bypasses_coincide_when_everything_is_selected(bypass, shift):
    mask = torch.ones(2, *GRID, dtype=torch.bool)
    logits = tokens(*mask.shape, seed=3)
    assert_same(
        run(mask, shift=shift, logits=logits, bypass=bypass)[0],
        run(mask, shift=shift, logits=logits)[0],
        tolerance=1e-6,
    )


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("settings", [{"bypass": "skip_block"}, {"ffn": "selected"}], ids=str)
def test_skipped_tokens_leave_the_block_as_they_came(settings, grad):
    mask = random_mask([20, 0, 63])
    x = tokens(*mask.shape, DIM)
    block = our_block(Fixed(mask), **settings)
    with torch.set_grad_enabled(grad):
        ours = block(x, context(x)).tokens
        everyone = our_block(Fixed(mask))(x, context(x)).tokens
    assert torch.equal(ours[~mask], x[~mask])
    assert_same(ours[mask], everyone[mask], tolerance=1e-6)


@pytest.mark.parametrize("packing", ["stream", "aligned"])
def test_o10_an_image_without_selected_tokens_is_left_alone_and_leaves_others_alone(packing):
    """O10: all its rows follow O9, and taking it out of the batch changes nothing for the others."""
    mask = random_mask([40, 0, 63])
    x = tokens(*mask.shape, DIM)
    ours, block = run(mask, x, shift=3, eval_packing=packing)
    with torch.no_grad():
        assert_same(ours[1], x[1] + block.mlp(block.norm2(x[1])), tolerance=1e-6)
    others = [0, 2]
    without, _ = run(mask[others], x[others], shift=3, eval_packing=packing)
    assert_same(without, ours[others], tolerance=1e-6)


@pytest.mark.parametrize("bypass", ["identity", "proj", "skip_block"])
def test_o10_a_batch_without_selected_tokens_has_zero_gradients_not_none(bypass):
    """O10: nothing selected anywhere: forward works, and every parameter has a gradient, zero in the attention."""
    model = HierarchicalBackbone(small_config(gate_bias_init=-60.0, noise="none", bypass=bypass))
    features = model(tokens(2, 3, 64, 80))
    assert all(placed.selection.counts.sum() == 0 for placed in features.selections)
    assert all(placed.padding_fraction == 0.0 for placed in features.selections)
    sum(value.square().sum() for value in features.maps.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith(("stages.2.blocks", "stages.3.blocks")) and ("qkv" in name or "table" in name):
            assert not parameter.grad.any(), name
    assert model.stages[3].blocks[0].mlp.fc1.weight.grad.any() == (bypass != "skip_block")


def test_o11_permuting_images_permutes_results_when_aligned():
    """O11: aligned containers; full containers; one container; and a case built to straddle, where it must not hold."""
    order = [2, 0, 3, 1]

    def both(counts, **settings):
        mask = random_mask(counts)
        x = tokens(*mask.shape, DIM)
        return run(mask, x, shift=3, **settings)[0][order], run(mask[order], x[order], shift=3, **settings)[0]

    assert_same(*both([40, 10, 63, 77], eval_packing="aligned"), tolerance=1e-6)
    assert_same(*both([49, 98, 0, 147], eval_packing="stream"), tolerance=1e-6)
    assert_same(*both([40, 10, 63, 77], eval_packing="stream", container_len=200), tolerance=2e-6)
    assert_differs(*both([40, 10, 63, 77], eval_packing="stream"))


@pytest.mark.parametrize("shift", [0, 3])
def test_o12_an_image_alone_equals_the_image_in_a_batch(shift):
    """O12: aligned always; in a stream image 0, and any image with a multiple of L tokens before it; else not."""
    mask = random_mask([98, 63, 60])
    x = tokens(*mask.shape, DIM)
    for packing, images in (("aligned", [0, 1, 2]), ("stream", [0, 1])):
        together, _ = run(mask, x, shift, eval_packing=packing)
        for image in images:
            alone, _ = run(mask[image, None], x[image, None], shift, eval_packing=packing)
            assert_same(together[image], alone[0], tolerance=1e-6)
    together, _ = run(mask, x, shift, eval_packing="stream")
    alone, _ = run(mask[2, None], x[2, None], shift, eval_packing="stream")
    assert_differs(together[2], alone[0])


@pytest.mark.parametrize("bypass", ["identity", "proj", "skip_block"])
def test_evaluation_in_pieces_equals_evaluation_with_gradients(bypass):
    """The memory-saving way of evaluation is the same function, for packed and dense blocks."""
    mask = random_mask([200, 0, 63], grid=(23, 30))
    x = tokens(3, 23, 30, DIM)
    logits = tokens(*mask.shape, seed=3)
    for block in (our_block(Fixed(mask, logits), 3, bypass=bypass), our_block(None, 3), our_block(None, 0)):
        with torch.no_grad():
            in_pieces = block(x, context(x)).tokens
        assert_same(in_pieces, block(x, context(x)).tokens.detach(), tolerance=1e-6)


@pytest.mark.parametrize("bypass", ["identity", "proj", "skip_block"])
@pytest.mark.parametrize("blocks", [0, 4])
def test_evaluation_in_pieces_under_autocast_and_in_half_precision(bypass, blocks):
    """bf16, by autocast or by the model's dtype, in pieces or at once: near the fp32 result, finite, of one dtype."""
    model = HierarchicalBackbone(small_config(gate_bias_init=3.0, bypass=bypass, num_spa_blocks=blocks)).eval()
    image = tokens(2, 3, 64, 96)
    with torch.no_grad():
        exact = model(image).maps["3"]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            with torch.autocast("cpu", torch.bfloat16):
                assert_same(model(image).maps["3"].detach(), exact, tolerance=0.05)
            half = HierarchicalBackbone(model.config).bfloat16().eval()
            half.load_state_dict(model.state_dict())
            assert half(image.bfloat16()).maps["3"].dtype == torch.bfloat16
            assert_same(half(image.bfloat16()).maps["3"].detach(), exact, tolerance=0.05)
