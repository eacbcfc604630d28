"""The whole branch as one operator: what it computes on a CPU, and what a counter makes of it."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from sptcore.models.attention.spa import SelectPackAttention
from sptcore.models.block import Block
from sptcore.ops.attend_selected import Branch, FeedForward, PackingRule, attend_selected
from sptcore.ops.attend_selected.operator import attend_branch, attend_whole
from sptcore.ops.layer_norm import Norm
from sptcore.ops.selection import Selection
from sptcore.profiling.counted import count_macs
from tests.support.networks import DIM, Fixed, context, our_block
from tests.support.numerics import assert_differs, assert_same

BYPASSES = ("identity", "proj", "skip_block")


def inputs(ratio: float = 0.4, grid: tuple[int, int] = (29, 37)) -> tuple[Tensor, Selection]:
    """Tokens of two images, enough for several pieces, and a selection that differs between the images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *grid, DIM, generator=generator)
    logits, draw = torch.randn(2, 2, *grid, generator=generator)
    mask = draw.sigmoid() < torch.tensor([ratio, ratio / 2])[:, None, None]
    return x, Selection(logits, mask.float(), torch.ones_like(mask))


def a_block(selection: Selection, bypass: str, mode: str = "aligned", **settings) -> Block:
    """A block of random weights in evaluation that selects just that; its two norms can be told apart by their eps."""
    block = our_block(Fixed(selection.mask, selection.logits), 3, bypass=bypass, eval_packing=mode, **settings)
    block.norm2.eps = 0.1
    return block


def branch_of(block: Block) -> Branch:
    """What the block's bypass makes of its selected tokens."""
    assert isinstance(block.attn, SelectPackAttention)
    mlp, second = block.mlp, None
    if block.bypass == "skip_block":
        second = FeedForward(Norm.of(block.norm2), mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    return block.attn.branch(Norm.of(block.norm1), second, passes=block.bypass == "proj")


def by_operator(block: Block, x: Tensor, selection: Selection) -> Tensor:
    """The block's tokens through the operator."""
    attn = block.attn
    assert isinstance(attn, SelectPackAttention)
    rule = PackingRule(attn.window_size, attn.shift_size, attn.eval_packing, attn.container_len, attn.scope)
    x = attend_selected(x, selection, branch_of(block), rule)
    return x if block.bypass == "skip_block" else x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
@torch.no_grad()
def test_the_operator_is_the_ordinary_road(mode, ratio, bypass):
    x, selection = inputs(ratio)
    block = a_block(selection, bypass, mode)
    found, expected = by_operator(block, x, selection), block(x, context(x)).tokens
    assert_same(found, expected, tolerance=1e-5)
    if bypass == "skip_block":
        assert torch.equal(found[~selection.mask], x[~selection.mask])
    for other in set(BYPASSES) - {bypass}:  # the second image has unselected tokens at every ratio
        assert_differs(a_block(selection, other, mode)(x, context(x)).tokens, found)


@pytest.mark.parametrize("container_len", [5, 5000])
@torch.no_grad()
def test_containers_shorter_and_longer_than_a_piece(container_len):
    x, selection = inputs(1.0)
    block = a_block(selection, "skip_block", container_len=container_len)
    assert_same(by_operator(block, x, selection), block(x, context(x)).tokens, tolerance=1e-5)


@pytest.mark.parametrize("bypass", BYPASSES)
@torch.no_grad()
def test_what_is_given_stays_as_it_was(bypass):
    x, selection = inputs()
    before = x.clone()
    by_operator(a_block(selection, bypass), x, selection)
    assert torch.equal(x, before)


def test_what_is_refused():
    x, selection = inputs()
    block = a_block(selection, "skip_block")
    with pytest.raises(ValueError, match="no gradient"):
        by_operator(block, x, selection)
    with torch.no_grad(), pytest.raises(ValueError, match="skip the block"):
        attend_selected(x, selection, replace(branch_of(block), passes=True), PackingRule(7, 3, "stream", 49))


@torch.no_grad()
def arguments(mode: str, ratio: float, bypass: str = "identity") -> tuple:
    """What `attend_selected` hands to the operator."""
    x, selection = inputs(ratio)
    with patch("sptcore.ops.attend_selected.attend_whole", return_value=x) as operator:
        by_operator(a_block(selection, bypass, mode), x, selection)
    return operator.call_args.args


def test_products_are_computed_in_the_dtype_of_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        cast = arguments("stream", 0.3, "skip_block")
    plain = arguments("stream", 0.3, "skip_block")
    for given, dtype in ((cast, torch.bfloat16), (plain, torch.float32)):
        _, projections, _, feed_forward = given[4:8]
        assert {weight.dtype for weight in (*projections, *feed_forward)} == {dtype}


@pytest.mark.parametrize("bypass", BYPASSES)
def test_shapes_and_schema_are_what_the_compiler_is_told(bypass):
    given = arguments("stream", 0.3, bypass)
    torch.library.opcheck(attend_whole, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("bypass", BYPASSES)
@torch.no_grad()
def test_the_result_lies_as_the_compiler_is_told_however_the_tokens_lie(bypass):
    x, *rest = arguments("stream", 0.3, bypass)
    rest[:2] = (one[:1] for one in rest[:2])
    channels_first = x[:1].movedim(-1, 1).contiguous().movedim(1, -1)  # of one image: rows of any length apart
    for tokens in (channels_first, channels_first[:0]):
        found, expected = attend_whole(tokens, *rest), attend_whole(tokens.contiguous(), *rest)
        assert found.is_contiguous()
        assert torch.equal(found, expected)


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_a_counter_sees_what_the_ordinary_road_costs(mode, ratio, bypass):
    """To the last digit, though no shape tells how many tokens were selected."""
    x, selection = inputs(ratio)
    block = a_block(selection, bypass, mode)
    expected = count_macs(lambda: block(x, context(x))).macs
    assert count_macs(lambda: by_operator(block, x, selection)).macs == expected
    assert (expected == 0) == (ratio == 0 and bypass == "skip_block")


@pytest.mark.parametrize("bypass", BYPASSES)
@torch.no_grad()
def test_a_counter_without_data_counts_every_token(bypass):
    """A bound: what a full selection costs."""
    given = arguments("aligned", 0.3, bypass)
    full = (*given[:2], torch.ones_like(given[2]), *given[3:])
    with FakeTensorMode() as mode:
        fakes = tree_map_only(Tensor, mode.from_tensor, given)
        most = count_macs(lambda: attend_whole(*fakes)).macs
    assert most == count_macs(lambda: attend_whole(*full)).macs
    assert count_macs(lambda: attend_whole(*given)).macs < most


@torch.no_grad()
def test_a_batch_without_tokens_comes_back():
    given = arguments("stream", 0.3)
    empty = [one[:0] if index < 3 else one for index, one in enumerate(given)]
    assert attend_branch(*empty).shape == (0, *given[0].shape[1:])
