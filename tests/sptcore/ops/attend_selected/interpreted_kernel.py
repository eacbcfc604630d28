"""The kernels of the inference road under Triton's interpreter; `test_kernel.py` runs this file in a child."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from sptcore.models.variants import build_backbone
from sptcore.ops.attend_selected import (
    Branch,
    FeedForward,
    PackingRule,
    Projections,
    attend_selected,
    kernel,
    plan_on_device,
    without_waiting,
)
from sptcore.ops.attend_selected.on_device import rows_of_tokens
from sptcore.ops.layer_norm import Norm, gate_stats
from sptcore.ops.layer_norm.kernel import row_stats
from sptcore.ops.packed_attention import PositionBias
from sptcore.ops.packing import plan_packing
from sptcore.ops.selection import Selection
from tests.sptcore.ops.test_packing import CASES, random_mask
from tests.support.networks import randomise
from tests.support.numerics import assert_differs, assert_rounds_like_on_average, assert_same

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_kernel.py, which sets TRITON_INTERPRET=1"


@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
def test_plan_on_device_equals_the_exact_packing(counts, mode):
    """The same tokens in the same containers; spare containers are empty."""
    mask = random_mask(counts)
    exact = plan_packing(mask, 7, 3, mode, impl="reference")
    packing, starts = plan_on_device(mask, PackingRule(7, 3, mode, 49))
    used = exact.num_containers + 1
    assert torch.equal(starts[:used], exact.cu_seqlens)
    assert (starts[used - 1 :] == exact.num_tokens).all()
    assert torch.equal(packing.token_index[: exact.num_tokens], exact.token_index)
    _, full_starts = plan_on_device(torch.ones_like(mask), PackingRule(7, 3, mode, 49))
    assert starts.shape == full_starts.shape
    assert full_starts[-1] == mask.numel()


BYPASSES = ("identity", "proj", "skip_block")


def inputs(counts, channels, heads, dtype=torch.float32) -> tuple[Tensor, Selection, Branch]:
    """x, a selection, and a branch with everything in it, rounded to `dtype`, with biases that are not zero."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    def norm():
        return Norm(1 + draw(channels, scale=0.2), draw(channels), 1e-5)

    def linear(out, of):
        return draw(out, of, scale=of**-0.5), draw(out)

    mask = random_mask(counts)
    x = draw(*mask.shape, channels) + 3  # a mean that the norm has to take away
    selection = Selection(draw(*mask.shape).float(), mask.float(), torch.ones_like(mask))
    projections = Projections(*linear(3 * channels, channels), *linear(channels, channels), heads)
    hidden = 2 * channels + 5
    feed_forward = FeedForward(norm(), *linear(hidden, channels), *linear(channels, hidden))
    return x, selection, Branch(norm(), projections, PositionBias(draw(169, heads).float(), 7), feed_forward)


def for_bypass(branch: Branch, bypass: str, by: str | None) -> Branch:
    """The branch as the bypass has it, with the bias looked up `by` space or slot."""
    bias = replace(branch.bias, by=by) if by and branch.bias else None
    second = branch.feed_forward if bypass == "skip_block" else None
    return replace(branch, bias=bias, feed_forward=second, passes=bypass == "proj")


def to_double(part: Any) -> Any:
    """The same in float64: what is computed from it counts as exact."""
    if isinstance(part, Tensor):
        return part.double() if part.is_floating_point() else part
    if not is_dataclass(part):
        return part
    return replace(part, **{one.name: to_double(getattr(part, one.name)) for one in fields(part)})


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("counts", "rule", "by"),
    [
        ((0, 1, 48, 49, 50), PackingRule(7, 0, "stream", 49), "spatial"),
        ((17, 0, 63), PackingRule(7, 3, "aligned", 49, "image_region"), "slot"),
        ((17, 30), PackingRule(7, 3, "stream", 64, "image_window"), None),
        ((0, 0), PackingRule(7, 3, "stream", 49), "spatial"),
    ],
    ids=str,
)
@torch.no_grad()
def test_branch_equals_the_reference(counts, rule, by, dtype, bypass):
    """Tokens round as the reference does; those that skip keep their bits."""
    x, selection, branch = inputs(counts, 48, 3, dtype)
    branch = for_bypass(branch, bypass, by)
    found, reference = (attend_selected(x, selection, branch, rule, impl=impl) for impl in ("kernel", "reference"))
    exact = attend_selected(to_double(x), to_double(selection), to_double(branch), rule, impl="reference")
    assert exact.dtype == torch.float64
    rows = torch.ones_like(selection.mask) if bypass == "proj" else selection.mask
    assert torch.equal(found[~rows], x[~rows])
    assert_rounds_like_on_average(found[rows], reference[rows], exact[rows])


@pytest.mark.parametrize("bypass", BYPASSES)
@torch.no_grad()
def test_statistics_of_the_gate_serve_the_branch(bypass):
    """What the gate found on its read of the tokens, and what the branch finds itself, give the same."""
    x, selection, branch = inputs((17, 30), 48, 3)
    branch, rule = for_bypass(branch, bypass, "spatial"), PackingRule(7, 0, "stream", 49)
    _, stats = gate_stats(x, branch.norm, torch.ones(1, 48), torch.zeros(1), "kernel")
    assert stats is not None
    alone, served = (attend_selected(x, selection, branch, rule, one, "kernel") for one in (None, stats))
    assert torch.equal(alone, served)
    wrong = attend_selected(x, selection, branch, rule, stats + 1, "kernel")
    assert_differs(wrong, alone)


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize(("channels", "heads"), [(96, 3), (33, 3)])
@torch.no_grad()
def test_branch_of_a_channel_count_that_fills_no_block(channels, heads, bypass):
    """96 and 33 channels: the last blocks of rows, columns and inner products are partly outside."""
    x, selection, branch = inputs((17, 30), channels, heads)
    branch, rule = for_bypass(branch, bypass, None), PackingRule(7, 0, "stream", 49)
    found, reference = (attend_selected(x, selection, branch, rule, impl=impl) for impl in ("kernel", "reference"))
    assert_same(found, reference, tolerance=1e-5)


@pytest.mark.parametrize("bypass", BYPASSES)
@torch.no_grad()
def test_buffers_that_hold_nan_reach_nobody(bypass, nan_buffers):
    """Rows behind the count and pads of containers are NaN here; so are tokens that skip, which stay as they are."""
    x, selection, branch = inputs((17, 0, 50), 48, 3)
    branch, rule = for_bypass(branch, bypass, "spatial"), PackingRule(7, 3, "aligned", 49)
    expected = attend_selected(x, selection, branch, rule, impl="reference")
    poisoned = x.clone()
    if bypass != "proj":
        poisoned[~selection.mask] = expected[~selection.mask] = float("nan")
    found = attend_selected(poisoned, selection, branch, rule, impl="kernel")
    assert torch.equal(found.isnan(), expected.isnan())
    assert_same(found.nan_to_num(), expected.nan_to_num(), tolerance=1e-5)


@pytest.fixture
def nan_buffers():
    """What torch.empty returns is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_rows_behind_the_count_are_neither_read_nor_written(nan_buffers):
    """NaN behind the count stays where it is and reaches nobody."""
    generator = torch.Generator().manual_seed(0)
    grid, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((40, 16), (24, 16), (24,)))
    index = torch.randperm(40, generator=generator)
    count = torch.tensor([5], dtype=torch.int32)
    poisoned = grid.clone()
    poisoned[index[5:]] = float("nan")
    stats = row_stats(poisoned, index, count, 1e-5)
    assert stats[:, index[5:]].isnan().all()
    tokens = kernel.Tokens(poisoned, stats, torch.ones(16), torch.zeros(16))
    rows = kernel.gather_linear(tokens, None, index, count, weight, bias, gelu=True)
    hidden = linear(layer_norm(grid[index[:5]], (16,)), weight, bias)
    assert_same(rows[:5], gelu(hidden), tolerance=1e-5)
    assert_differs(rows[:5], gelu(hidden, approximate="tanh"), by=1e-5)
    assert rows[5:].isnan().all()
    target = torch.zeros(40, 16)
    kernel.linear_scatter_(target, rows, index, count, weight.t().contiguous(), bias[:16])
    assert target[index[:5]].isfinite().all()
    assert not target[index[5:]].any()


@pytest.mark.parametrize("count", [0, 3, 6])
def test_rows_of_tokens(count):
    """Token 0 is not mistaken for the zeros behind the count."""
    index = torch.tensor([4, 0, 2, 5, 1, 3])
    index[count:] = 0
    found = rows_of_tokens(index, torch.tensor([count], dtype=torch.int32))
    expected = [index[:count].tolist().index(token) if token in index[:count] else -1 for token in range(6)]
    assert found.tolist() == expected


def test_a_gradient_is_refused():
    x, selection, branch = inputs((17, 30), 48, 3)
    with pytest.raises(ValueError, match="no gradient"):
        attend_selected(x, selection, branch, PackingRule(7, 0, "stream", 49), impl="kernel")


BACKBONES = [{}, {"bypass": "proj"}, {"ffn": "selected", "selector": "topk", "topk_score": "l2"}]


@pytest.mark.parametrize("settings", BACKBONES, ids=str)
@torch.no_grad()
def test_backbone_without_waiting(settings):
    """A whole backbone through these kernels, as while a CUDA graph is captured: the features of the ordinary road."""
    settings = {"select_threshold": 0.5, "score_propagation": False} | settings
    backbone = randomise(build_backbone("spt-nano", **settings)).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = backbone(images)
    with without_waiting():
        found = backbone(images)
    assert any(0 < placed.selection.ratio < 1 for placed in expected.selections)
    for key, value in expected.maps.items():
        assert_same(found.maps[key], value, tolerance=1e-4)
    assert all(placed.packing is None for placed in found.selections)
    for one, other in zip(found.selections, expected.selections, strict=True):
        assert torch.equal(one.selection.mask, other.selection.mask)
