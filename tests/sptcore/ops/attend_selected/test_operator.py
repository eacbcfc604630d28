"""The whole branch as one operator: what it computes on a CPU, and what a counter makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sptcore.models.attention.spa import SelectPackAttention
from sptcore.models.config import BackboneConfig
from sptcore.ops.attend_selected import PackingRule, Projections, attend_selected
from sptcore.ops.attend_selected.operator import attend_branch, attend_whole
from sptcore.ops.packing import scatter
from sptcore.ops.selection import Selection
from sptcore.profiling.counted import count_macs
from tests.support.networks import randomise
from tests.support.numerics import assert_differs, assert_same

CHANNELS, HEADS = 48, 3


def attention(mode: str) -> SelectPackAttention:
    config = BackboneConfig(num_spa_blocks=8, eval_packing=mode)
    return randomise(SelectPackAttention(CHANNELS, HEADS, 3, config)).eval()  # type: ignore[return-value]


def inputs(ratio: float = 0.4, grid: tuple[int, int] = (29, 37)) -> tuple[Tensor, Tensor, Selection]:
    """Tokens of two images, enough for several pieces, and a selection that differs between the images."""
    generator = torch.Generator().manual_seed(0)
    x, normed = torch.randn(2, 2, *grid, CHANNELS, generator=generator)
    logits, draw = torch.randn(2, 2, *grid, generator=generator)
    mask = draw.sigmoid() < torch.tensor([ratio, ratio / 2])[:, None, None]
    return x, normed, Selection(logits, mask.float(), torch.ones_like(mask))


def ordinary(attn: SelectPackAttention, x: Tensor, normed: Tensor, selection: Selection) -> Tensor:
    """The branch as a block computes it outside of a compiled or captured evaluation."""
    attended = attn(normed, selection)
    assert attended.packing is not None
    return x + scatter(attn.proj(attended.tokens), attended.packing)


def by_operator(attn: SelectPackAttention, x: Tensor, normed: Tensor, selection: Selection) -> Tensor:
    weights = Projections(attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias, HEADS)
    rule = PackingRule(attn.window_size, attn.shift_size, attn.eval_packing, attn.container_len, attn.scope)
    return attend_selected(x, normed, selection, weights, rule, attn.position_bias)


@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
@torch.no_grad()
def test_the_operator_is_the_ordinary_road(mode, ratio):
    attn, given = attention(mode), inputs(ratio)
    found = by_operator(attn, *given)
    assert_same(found, ordinary(attn, *given), tolerance=1e-5)
    assert torch.equal(found[~given[2].mask], given[0][~given[2].mask])
    if ratio:
        other = replace(given[2], weight=given[2].weight.flip(1))
        assert ratio == 1 or not torch.equal(other.weight, given[2].weight)
        assert_differs(found, given[0])


@torch.no_grad()
def test_what_is_given_stays_as_it_was():
    attn, given = attention("aligned"), inputs()
    before = given[0].clone()
    by_operator(attn, *given)
    assert torch.equal(given[0], before)


def test_a_gradient_is_refused():
    with pytest.raises(ValueError, match="no gradient"):
        by_operator(attention("stream"), *inputs())


def arguments(mode: str, ratio: float) -> tuple:
    """What `attend_selected` hands to the operator."""
    attn, (x, normed, selection) = attention(mode), inputs(ratio)
    weights = [one.detach() for one in (attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias)]
    bias = attn.position_bias
    assert bias is not None
    sizes = (
        HEADS,
        attn.window_size,
        attn.shift_size,
        mode,
        attn.container_len,
        "image",
        bias.window_size,
        False,
        False,
    )
    return (x, normed, selection.gain, selection.mask, *weights, bias.table.detach(), *sizes)


def test_shapes_and_schema_are_what_the_compiler_is_told():
    torch.library.opcheck(attend_whole, arguments("stream", 0.3), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_a_counter_sees_what_the_ordinary_road_costs(mode, ratio):
    """To the last digit, though no shape tells how many tokens were selected."""
    attn, given = attention(mode), inputs(ratio)
    with torch.enable_grad():  # whole grids at once; pieces would count the same
        expected = count_macs(lambda: ordinary(attn, *given)).macs
    assert count_macs(lambda: by_operator(attn, *given)).macs == expected
    assert (expected == 0) == (ratio == 0)


@torch.no_grad()
def test_a_counter_without_data_counts_every_token():
    """A bound: what a full selection costs."""
    full = inputs(1.0)
    full = (*full[:2], replace(full[2], weight=torch.ones_like(full[2].weight)))
    attn = attention("aligned")
    most = count_macs(lambda: ordinary(attn, *full)).macs
    given = arguments("aligned", 0.3)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(one) if isinstance(one, Tensor) else one for one in given]
        assert count_macs(lambda: attend_whole(*fakes)).macs == most
    assert count_macs(lambda: attend_whole(*given)).macs < most


@torch.no_grad()
def test_a_batch_without_tokens_comes_back():
    given = arguments("stream", 0.3)
    empty = [one[:0] if index < 4 else one for index, one in enumerate(given)]
    assert attend_branch(*empty).shape == (0, *given[0].shape[1:])
