"""The kernels of the inference branch under Triton's interpreter; `test_kernel.py` runs this file in a child."""

from __future__ import annotations

import os

import pytest
import torch

from sptcore.models.variants import build_backbone
from sptcore.ops.attend_selected import (
    PackingRule,
    Projections,
    attend_selected,
    kernel,
    plan_on_device,
    without_waiting,
)
from sptcore.ops.packed_attention import PositionBias
from sptcore.ops.packing import plan_packing
from sptcore.ops.selection import Selection
from tests.sptcore.ops.test_packing import CASES, random_mask
from tests.support.networks import randomise
from tests.support.numerics import assert_rounds_like_on_average, assert_same

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


def inputs(counts, channels, heads, dtype, seed=0):
    """x, LN(x), a selection, projections and a bias table, rounded to `dtype`, with biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    mask = random_mask(counts)
    x = draw(*mask.shape, channels)
    normed = torch.nn.functional.layer_norm(x.float(), (channels,)).to(dtype)
    selection = Selection(draw(*mask.shape).float(), mask.float(), torch.ones_like(mask))
    scale = channels**-0.5
    weights = (
        draw(3 * channels, channels) * scale,
        draw(3 * channels),
        draw(channels, channels) * scale,
        draw(channels),
    )
    return x, normed, selection, Projections(*weights, heads), draw(169, heads).float()


def in_dtype(given, dtype):
    x, normed, selection, projections, table = given
    weights = (projections.qkv_weight, projections.qkv_bias, projections.proj_weight, projections.proj_bias)
    selection = Selection(
        selection.logits.to(torch.promote_types(dtype, torch.float32)), selection.weight, selection.valid
    )
    projections = Projections(*(weight.to(dtype) for weight in weights), projections.num_heads)
    return x.to(dtype), normed.to(dtype), selection, projections, table.to(torch.promote_types(dtype, torch.float32))


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
def test_branch_equals_the_reference(counts, rule, by, dtype):
    """Selected tokens round as the reference does, the others keep their bits."""
    given = inputs(counts, 48, 3, dtype)
    results = {}
    for name, impl, kind in (
        ("exact", "reference", torch.float64),
        ("reference", "reference", dtype),
        ("kernel", "kernel", dtype),
    ):
        x, normed, selection, projections, table = in_dtype(given, kind)
        bias = PositionBias(table, 7, by) if by else None
        results[name] = attend_selected(x, normed, selection, projections, rule, bias, impl)
    mask = given[2].mask
    assert torch.equal(results["kernel"][~mask], given[0][~mask])
    assert_rounds_like_on_average(results["kernel"][mask], results["reference"][mask], results["exact"][mask])


@torch.no_grad()
def test_branch_of_a_channel_count_that_fills_no_block():
    """96 and 33 channels: the last blocks of rows, columns and inner products are partly outside."""
    for channels, heads in ((96, 3), (33, 3)):
        given = inputs((17, 30), channels, heads, torch.float32)
        rule = PackingRule(7, 0, "stream", 49)
        kernels, reference = (attend_selected(*given[:4], rule, None, impl) for impl in ("kernel", "reference"))
        assert_same(kernels, reference, tolerance=1e-5)


def test_rows_behind_the_count_are_neither_read_nor_written():
    """NaN behind the count stays where it is and reaches nobody."""
    generator = torch.Generator().manual_seed(0)
    grid, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((40, 16), (24, 16), (24,)))
    index = torch.randperm(40, generator=generator)
    count = torch.tensor([5], dtype=torch.int32)
    poisoned = grid.clone()
    poisoned[index[5:]] = float("nan")
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        rows = kernel.gather_linear(poisoned, None, index, count, weight, bias)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(rows[:5], torch.nn.functional.linear(grid[index[:5]], weight, bias), tolerance=1e-5)
    assert rows[5:].isnan().all()
    target = torch.zeros(40, 16)
    kernel.linear_scatter_(target, rows, index, count, weight.t().contiguous(), bias[:16])
    assert target[index[:5]].isfinite().all()
    assert not target[index[5:]].any()


def test_a_gradient_is_refused():
    given = inputs((17, 30), 48, 3, torch.float32)
    with pytest.raises(ValueError, match="no gradient"):
        attend_selected(*given[:4], PackingRule(7, 0, "stream", 49), None, "kernel")


@torch.no_grad()
def test_backbone_without_waiting():
    """A whole backbone through this branch, as while a CUDA graph is captured: the features of the ordinary road."""
    backbone = randomise(build_backbone("spt-nano", select_threshold=0.5, score_propagation=False)).eval()
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
