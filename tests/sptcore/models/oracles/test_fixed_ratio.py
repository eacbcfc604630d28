"""O20, O21, O24 on Swin's windows: attention gathered in selected windows, fixed shares of windows and tokens."""

from __future__ import annotations

import pytest
import torch

from sptcore.models.attention import ATTENTIONS
from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.block import Block
from sptcore.models.config import BackboneConfig
from sptcore.models.recompute import recompute_blocks
from sptcore.models.selectors import SELECTORS, TokenContext
from sptcore.ops.windows import window_order
from tests.sptcore.ops.test_packing import random_mask
from tests.support.networks import (
    DIM,
    HEADS,
    WINDOW,
    Fixed,
    block_weights,
    context,
    randomise,
    small_config,
    swin_block,
    tokens,
)
from tests.support.numerics import assert_differs, assert_same

SIZES = [(14, 21), (9, 10), (5, 17), (7, 7), (3, 2)]


def gather_block(selector, shift=0, *, dtype=torch.float32, bypass="identity", **settings):
    """A block on Swin's windows with the weights of `swin_block`; the selector a name or a module."""
    config = BackboneConfig(window_size=WINDOW, attention="window_gather", **settings)
    chosen = SELECTORS[selector](DIM, config, shift) if isinstance(selector, str) else selector
    attention = ATTENTIONS["window_gather"](DIM, HEADS, shift, config)
    block = randomise(Block(DIM, selector=chosen, attention=attention, bypass=bypass), seed=1).to(dtype)
    block.load_state_dict(block_weights(swin_block(shift, dtype).state_dict(), block.state_dict()))
    return block.eval()


def dense_attention(block, x, mask, shift):
    """The slow definition of the attention branch: P x P among the selected of one window and region."""
    _, height, width, dim = x.shape
    order = window_order(height, width, window_size=WINDOW, shift_size=shift, device=x.device)
    window, region = order.positions // WINDOW**2, order.regions[order.positions]
    query, key, value = block.attn.qkv(block.norm1(x)).flatten(1, 2).unflatten(-1, (3, HEADS, -1)).unbind(2)
    places = order.positions % WINDOW**2
    down = places[:, None] // WINDOW - places // WINDOW
    right = places[:, None] % WINDOW - places % WINDOW
    index = (down + WINDOW - 1) * (2 * WINDOW - 1) + right + WINDOW - 1
    same = (window[:, None] == window) & (region[:, None] == region)
    bias = block.attn.relative_position_bias_table[index.clamp(0, (2 * WINDOW - 1) ** 2 - 1)].permute(2, 0, 1)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * (dim // HEADS) ** -0.5 + bias
    keys = same & mask.flatten(1)[:, None, None, :]
    shares = scores.masked_fill(~keys, -1e300).softmax(-1)
    mixed = torch.einsum("bhqk,bkhd->bqhd", shares, value).flatten(2).view_as(x)
    return block.attn.proj(mixed) * mask.unsqueeze(-1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("selector", ["all", "topk_windows", "topk", "random"])
def test_o21_all_selected_is_swin_at_any_size(selector, shift, size):
    """O21 and O20: nothing pruned, pad cells or not, plain or shifted, with gradients and in pieces."""
    block = gather_block(selector, shift, select_ratio=1.0, topk_score="l2")
    x = tokens(2, *size, DIM)
    swins = swin_block(shift)(x)
    assert_same(block(x, context(x)).tokens, swins, tolerance=1e-5)
    with torch.no_grad():
        assert_same(block(x, context(x)).tokens, swins, tolerance=1e-5)


@pytest.mark.parametrize("shift", [0, 3])
def test_o21_gradients_equal_swins(shift):
    """O21: of the input and of every parameter, fp64, with pad cells that take part."""
    swin, block = swin_block(shift, torch.float64), gather_block("all", shift, dtype=torch.float64)
    x = tokens(2, 9, 10, DIM, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    block(ours, context(ours)).tokens.pow(3).sum().backward()
    swin(theirs).pow(3).sum().backward()
    assert_same(ours.grad, theirs.grad, tolerance=1e-12)
    expected = block_weights({name: one.grad for name, one in swin.named_parameters()}, dict(block.named_parameters()))
    for name, parameter in block.named_parameters():
        assert_same(parameter.grad, expected[name], tolerance=1e-12)


def test_o21_pad_cells_of_a_window_with_a_gap_take_no_part():
    """Negative control: one token less, and the pads of its window are out, so its neighbours change more than it."""
    x = tokens(1, 9, 10, DIM)
    mask = torch.ones(1, 9, 10, dtype=torch.bool)
    mask[:, 8, 9] = False  # the window in the lower right corner: 2 x 3 tokens, 43 pads
    mixed = gather_block(Fixed(mask))(x, context(x)).tokens
    swins = swin_block()(x)
    assert_differs(mixed[:, 7:, 7:], swins[:, 7:, 7:])
    assert_same(mixed[:, :7, :7], swins[:, :7, :7], tolerance=1e-5)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("size", [(14, 21), (9, 17)])
def test_selected_tokens_attend_among_the_selected_of_their_window(size, share, shift):
    """Any mask with gaps, one image empty: the branch is P x P attention in fp64, zero at the unselected."""
    block = gather_block("all", shift, dtype=torch.float64)
    x = tokens(3, *size, DIM, dtype=torch.float64)
    mask = torch.rand(3, *size, generator=torch.Generator().manual_seed(2)) < share
    mask[1], mask[:, ::7, ::7] = False, False
    mask[:, 4, 4] = mask[:, 6, 3] = False
    block.selector = Fixed(mask)
    output = block(x, context(x))
    middle = x + dense_attention(block, x, mask, shift)
    assert_same(output.tokens, middle + block.mlp(block.norm2(middle)), tolerance=1e-12)
    with torch.no_grad():
        assert_same(block(x, context(x)).tokens, output.tokens, tolerance=1e-12)
    assert output.packing.counts.tolist() == mask.flatten(1).sum(1).tolist()


@pytest.mark.parametrize("shift", [0, 3])
def test_o21_unselected_windows_skip_the_block_bit_for_bit(shift):
    """O21: skip_block leaves them as they came; selected windows are Swin's, since windows do not see each other."""
    block = gather_block("topk_windows", shift, bypass="skip_block", select_ratio=0.5)
    x = tokens(2, 14, 28, DIM)
    with torch.no_grad():
        output, swins = block(x, context(x)), swin_block(shift)(x)
    mask = output.selection.mask
    assert mask.flatten(1).sum(1).tolist() == [4 * 49] * 2
    assert torch.equal(output.tokens[~mask], x[~mask])
    assert_same(output.tokens[mask], swins[mask], tolerance=1e-5)
    through = gather_block("topk_windows", shift, select_ratio=0.5)(x, context(x)).tokens
    assert_differs(through[~mask], x[~mask])


@pytest.mark.parametrize("shift", [0, 3])
def test_a_few_windows_at_a_time_are_all_at_once(shift):
    """Without a gradient a CPU works through them in pieces: each window keeps its own pads, gaps and regions."""
    block = gather_block(Fixed(random_mask([500, 700], (29, 37))), shift)
    x = tokens(2, 29, 37, DIM)
    at_once = block(x, context(x)).tokens.detach()
    with torch.no_grad():
        assert_same(block(x, context(x)).tokens, at_once, tolerance=1e-5)


def test_o20_windows_are_scored_once_a_stage():
    """O20: later blocks take the windows of the first one's input, plain and shifted; the next stage begins anew."""
    plain, shifted = (gather_block("topk_windows", shift).selector for shift in (0, 3))
    x, later = tokens(1, 14, 28, DIM), tokens(1, 14, 28, DIM, seed=9)
    stage, alone = context(x), TokenContext(context(x).valid)
    first = plain(x, x, stage).mask
    assert torch.equal(plain(later, later, stage).mask, first)
    assert not torch.equal(plain(later, later, alone).mask, first)
    assert torch.equal(shifted(later, later, stage).mask, shifted(x, x, context(x)).mask)
    assert not torch.equal(shifted(later, later, stage).mask, shifted(later, later, context(x)).mask)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("settings", [{"topk_score": "gate"}, {"topk_score": "l2"}, {"selector": "random"}], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_o20_tokens_are_the_ceiling_of_the_share(ratio, settings, training):
    """O20: P is exactly ceil(ratio x valid tokens) in every image and block, whatever the scores are."""
    model = HierarchicalBackbone(small_config(**{"selector": "topk", "select_ratio": ratio} | settings)).train(training)
    features = model(tokens(2, 3, 96, 160), torch.tensor([[96, 160], [40, 90]]))
    tenths = round(ratio * 10)
    for placed in features.selections:
        valid = placed.selection.valid.flatten(1).sum(1)
        assert valid[1] < valid[0]
        assert placed.selection.counts.tolist() == (-(-valid * tenths // 10)).tolist()
        assert placed.packing.counts.tolist() == placed.selection.counts.tolist()


def test_random_selection_repeats_in_evaluation_and_not_in_training():
    selector = SELECTORS["random"](DIM, BackboneConfig(select_ratio=0.5))
    x = tokens(2, 9, 10, DIM)
    evaluated, trained = ([selector.train(mode)(x, x, context(x)).mask for _ in range(2)] for mode in (False, True))
    assert torch.equal(*evaluated)
    assert not torch.equal(*trained)
    torch.manual_seed(3)
    first = selector.train()(x, x, context(x)).mask
    torch.manual_seed(3)
    assert torch.equal(selector(x, x, context(x)).mask, first)


@pytest.mark.parametrize("attention", ["spa", "window_gather"])
@pytest.mark.parametrize("training", [False, True])
def test_o24_labels_select_under_either_attention(attention, training):
    """O24: sel == y & valid bit for bit and the ratio is the label's; other labels give another answer."""
    model = randomise(HierarchicalBackbone(small_config(selector="ground_truth", attention=attention)))
    model.train(training)
    images, sizes = tokens(2, 3, 64, 80), torch.tensor([[64, 80], [31, 64]])
    labels = {16: tokens(2, 4, 5, seed=2) > 0.5, 32: tokens(2, 2, 3, seed=3) > 0.5}
    features = model(images, sizes, labels)
    for placed in features.selections:
        expected = labels[placed.stride] & placed.selection.valid
        assert torch.equal(placed.selection.mask, expected)
        assert placed.selection.ratio == expected.sum() / placed.selection.valid.sum()
        assert not placed.selection.gated
    turned = model(images, sizes, {stride: ~label for stride, label in labels.items()})
    assert_differs(turned.maps["3"], features.maps["3"])


@pytest.mark.parametrize("settings", [{"selector": "topk_windows"}, {"selector": "ground_truth"}, {}], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_an_image_alone_is_the_image_in_a_batch(settings, training):
    model = randomise(HierarchicalBackbone(small_config(attention="window_gather", noise="none", **settings)))
    model.train(training)
    images, sizes = tokens(2, 3, 96, 130), torch.tensor([[96, 130], [50, 100]])
    labels = {16: tokens(2, 6, 9, seed=2) > 0, 32: tokens(2, 3, 5, seed=3) > 0}
    both = model(images, sizes, labels)
    for image in range(2):
        part = slice(image, image + 1)
        alone = model(images[part], sizes[part], {stride: label[part] for stride, label in labels.items()})
        for key, value in alone.maps.items():
            assert_same(both.maps[key][part], value, tolerance=1e-5)
        for one, other in zip(alone.selections, both.selections, strict=True):
            assert torch.equal(one.selection.mask, other.selection.mask[part])


@pytest.mark.parametrize(
    "settings",
    [
        {"selector": "topk_windows"},
        {"selector": "topk_windows", "bypass": "skip_block"},
        {"selector": "topk_windows", "bypass": "proj"},
        {"selector": "ground_truth"},
        {"selector": "random"},
        {"selector": "gate", "noise": "none", "score_propagation": False},
    ],
    ids=str,
)
def test_gradients_reach_every_parameter(settings):
    model = randomise(HierarchicalBackbone(small_config(attention="window_gather", **settings))).train()
    labels = {16: tokens(2, 16, 20, seed=2) > 0, 32: tokens(2, 8, 10, seed=3) > 0}
    features = model(tokens(2, 3, 256, 320), None, labels)
    sum(value.pow(3).mean() for value in features.maps.values()).backward()
    missing = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()]
    assert missing == []


def test_an_empty_batch_gives_zero_gradients():
    model = randomise(HierarchicalBackbone(small_config(attention="window_gather", selector="ground_truth"))).train()
    labels = {16: torch.zeros(2, 4, 5).bool(), 32: torch.zeros(2, 2, 3).bool()}
    features = model(tokens(2, 3, 64, 80), None, labels)
    sum(value.pow(3).mean() for value in features.maps.values()).backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if ".attn." in name and "stages.2" in name}
    assert gradients
    assert all(one is not None and not one.any() for one in gradients.values())
    assert model.stages[2].blocks[0].mlp.fc1.weight.grad.any()


def test_bfloat16_is_near_and_gradients_stay_finite():
    model = randomise(HierarchicalBackbone(small_config(attention="window_gather", selector="random"))).train()
    images = tokens(2, 3, 96, 130)
    torch.manual_seed(1)
    exact = model(images).maps["3"]
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images).maps["3"]
    assert_same(rounded.float(), exact, tolerance=0.05)
    rounded.float().pow(3).mean().backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())


@pytest.mark.parametrize("selector", ["topk_windows", "random"])
def test_recomputed_blocks_select_the_same(selector):
    """Activation checkpointing: what a stage remembers and what is drawn are the same the second time."""

    def gradients(recomputed):
        model = randomise(HierarchicalBackbone(small_config(attention="window_gather", selector=selector))).train()
        recompute_blocks(model, recomputed)
        torch.manual_seed(1)
        features = model(tokens(2, 3, 128, 160))
        sum(value.pow(3).mean() for value in features.maps.values()).backward()
        return {name: one.grad for name, one in model.named_parameters()}

    kept, again = gradients(False), gradients(True)
    for name, gradient in kept.items():
        assert torch.equal(gradient, again[name]), name
