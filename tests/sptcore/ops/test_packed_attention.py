"""Packed attention against attention over all pairs with a mask written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sptcore.ops.packed_attention import PositionBias, packed_attention
from sptcore.ops.packed_attention.reference import attend, pair_mask, relative_index
from sptcore.ops.packing import pack, plan_packing, unpack
from tests.sptcore.ops.test_packing import CASES, random_mask
from tests.support.numerics import assert_differs, assert_rounds_like, assert_same

HEADS, DIM, WINDOW = 2, 4, 7


def tensors(packing, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(packing.num_tokens, HEADS, DIM, generator=generator).to(dtype) for _ in range(3)]


def random_table(window=WINDOW, dtype=torch.float64, seed=3):
    return torch.randn((2 * window - 1) ** 2, HEADS, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dense_attention(query, key, value, packing, table=None, by="spatial", scope="image"):
    """All P x P pairs, open in the same image and container (and region, and window), each with its bias."""
    container = packing.slot // packing.container_len
    together = [packing.image_id, container]
    if scope != "image":
        together.append(packing.regions)
    if scope == "image_window":
        together.append(packing.windows)
    open_pair = torch.stack([ids[:, None] == ids[None, :] for ids in together]).all(0)
    scores = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(query.shape[-1])
    if table is not None:
        place = packing.slot % packing.container_len
        rows, columns = (packing.rows, packing.columns) if by == "spatial" else (place // WINDOW, place % WINDOW)
        dy = (rows[:, None] - rows[None, :]).clamp(1 - WINDOW, WINDOW - 1) + WINDOW - 1
        dx = (columns[:, None] - columns[None, :]).clamp(1 - WINDOW, WINDOW - 1) + WINDOW - 1
        scores = scores + table[dy * (2 * WINDOW - 1) + dx].permute(2, 0, 1)
    weights = scores.masked_fill(~open_pair, -math.inf).softmax(-1)
    return torch.einsum("hij,jhd->ihd", weights, value)


@pytest.mark.parametrize("counts", [[1], [17], [48], [49], [50], [63], [130], [0, 30, 0, 5], [17, 49, 130, 0]], ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("scope", ["image", "image_region", "image_window"])
def test_o06_packed_equals_dense_masked_attention(counts, mode, scope):
    """O6: equal to dense P x P attention masked by image and container (and region, and window)."""
    packing = plan_packing(random_mask(counts), WINDOW, 3, mode)
    query, key, value = tensors(packing)
    table = random_table()
    for bias, by in (
        (None, "spatial"),
        (PositionBias(table, WINDOW), "spatial"),
        (PositionBias(table, WINDOW, "slot"), "slot"),
    ):
        ours = packed_attention(query, key, value, packing, bias, scope)
        dense = dense_attention(query, key, value, packing, None if bias is None else table, by, scope)
        assert_same(ours, dense, tolerance=1e-12)


@pytest.mark.parametrize("length", [1, 5, 48, 64, 1000])
def test_o06_holds_for_any_container_length(length):
    """O6: any L, with a spatial bias and without one."""
    packing = plan_packing(random_mask([17, 0, 63]), WINDOW, 0, "stream", length)
    query, key, value = tensors(packing)
    table = random_table()
    for bias in (None, PositionBias(table, WINDOW)):
        ours = packed_attention(query, key, value, packing, bias)
        assert_same(ours, dense_attention(query, key, value, packing, None if bias is None else table), tolerance=1e-12)


def test_o06_the_mask_matters():
    """O6, negative control: without the container in the mask the result is another."""
    packing = plan_packing(random_mask([63]), WINDOW, 0)
    query, key, value = tensors(packing)
    one = plan_packing(random_mask([63]), WINDOW, 0, "stream", 64)
    assert_differs(packed_attention(query, key, value, packing), dense_attention(query, key, value, one))


def test_o07_one_container_is_full_attention_within_the_image():
    """O7: L >= P equals per-image attention and aligned packing with L >= N; order and shift do not matter then."""
    mask = random_mask([40, 0, 63])
    table = random_table()
    results = []
    for mode, shift, length in (("stream", 0, 200), ("stream", 3, 200), ("aligned", 0, 180), ("aligned", 3, 200)):
        packing = plan_packing(mask, WINDOW, shift, mode, length)
        by_token = torch.randn(
            mask.numel(), 3, HEADS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
        )
        query, key, value = by_token[packing.token_index].unbind(1)
        out = torch.zeros(mask.numel(), HEADS, DIM, dtype=torch.float64)
        out[packing.token_index] = packed_attention(query, key, value, packing, PositionBias(table, WINDOW))
        results.append(out)
    for other in results[1:]:
        assert_same(other, results[0], tolerance=1e-12)


def test_o07_a_bias_by_slot_or_a_short_container_depends_on_the_order():
    """O7, negative control: with slot biases, or with L below an image's tokens, the shift changes the result."""
    mask = random_mask([40])

    def result(shift, by, length):
        packing = plan_packing(mask, WINDOW, shift, "stream", length)
        by_token = torch.randn(
            mask.numel(), 3, HEADS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
        )
        query, key, value = by_token[packing.token_index].unbind(1)
        out = torch.zeros(mask.numel(), HEADS, DIM, dtype=torch.float64)
        out[packing.token_index] = packed_attention(
            query, key, value, packing, PositionBias(random_table(), WINDOW, by)
        )
        return out

    assert_same(result(0, "spatial", 49), result(3, "spatial", 49), tolerance=1e-12)
    assert_differs(result(0, "slot", 49), result(3, "slot", 49))
    assert_differs(result(0, "spatial", 16), result(3, "spatial", 16))


@pytest.mark.parametrize("bias", [False, True])
def test_o08_pad_content_is_irrelevant(bias):
    """O8: filling the pad slots with 1e4 changes no bit of the result; with an open mask it would."""
    packing = plan_packing(random_mask([17, 50]), WINDOW, 0, "aligned")
    query, key, value = tensors(packing, torch.float32)
    mask = pair_mask(pack(packing.image_id + 1, packing))
    scores = (
        torch.zeros(1).expand(*mask.shape[:1], HEADS, 49, 49).masked_fill(~mask[:, None], -math.inf) if bias else mask
    )
    pads = torch.ones(packing.num_containers * 49, dtype=torch.bool)
    pads[packing.slot] = False

    def attended(fill, scores):
        containers = []
        for tokens in (query, key, value):
            packed = pack(tokens, packing).flatten(0, 1).clone()
            packed[pads] = fill
            containers.append(packed.unflatten(0, (-1, 49)))
        return unpack(attend(*containers, scores), packing)

    assert torch.equal(attended(0.0, scores), attended(1e4, scores))
    opened = torch.ones_like(mask)
    assert_differs(attended(0.0, opened), attended(1e4, opened))


@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
def test_no_row_is_ever_nan(counts, mode):
    packing = plan_packing(random_mask(counts), WINDOW, 3, mode)
    query, key, value = (tensor.mul(30) for tensor in tensors(packing, torch.float32))
    for scope in ("image", "image_region", "image_window"):
        for bias in (None, PositionBias(random_table(dtype=torch.float32), WINDOW)):
            out = packed_attention(query, key, value, packing, bias, scope)
            assert out.shape == query.shape
            assert out.isfinite().all()


def test_rounding_is_that_of_the_dense_form_in_fp32():
    packing = plan_packing(random_mask([130, 63]), WINDOW, 3)
    table = random_table()
    exact = dense_attention(*tensors(packing), packing, table)
    dense = dense_attention(*tensors(packing, torch.float32), packing, table.float())
    ours = packed_attention(*tensors(packing, torch.float32), packing, PositionBias(table.float(), WINDOW))
    assert_rounds_like(ours, dense, exact)


@pytest.mark.parametrize("by", ["spatial", "slot", None])
@pytest.mark.parametrize("counts", [[3, 6], [0, 5], [0, 0]], ids=str)
def test_gradients_of_rows_and_table(by, counts):
    """Every gradient by finite differences in fp64; without any token the table's gradient is zero, not missing."""
    packing = plan_packing(random_mask(counts, grid=(3, 4)), 2, 1, "stream")
    rows = [tensor.requires_grad_() for tensor in tensors(packing)]
    table = random_table(2).requires_grad_()

    def attention(query, key, value, table):
        return packed_attention(query, key, value, packing, PositionBias(table, 2, by) if by else None)

    if packing.num_tokens:
        assert torch.autograd.gradcheck(attention, (*rows, table))
    elif by:
        attention(*rows, table).sum().backward()
        assert table.grad is not None
        assert not table.grad.any()


def test_relative_index_is_swins():
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    theirs = ShiftedWindowAttention(8, [7, 7], [0, 0], 2).relative_position_index
    assert torch.equal(relative_index(7, torch.device("cpu")).flatten(), theirs)


def test_wrong_arguments_are_named():
    packing = plan_packing(random_mask([5]), WINDOW, 0, "stream", 64)
    query, key, value = tensors(packing)
    with pytest.raises(ValueError, match="scope"):
        packed_attention(query, key, value, packing, scope="batch")
    with pytest.raises(ValueError, match="window_size"):
        packed_attention(query, key, value, packing, PositionBias(random_table(), WINDOW, "slot"))
    with pytest.raises(ValueError, match="spatial"):
        packed_attention(query, key, value, packing, PositionBias(random_table(), WINDOW, "learned"))
    with pytest.raises(ValueError, match="the kernel of packed_attention"):
        packed_attention(query, key, value, packing, impl="kernel")


@pytest.mark.parametrize("counts", [[0], [130, 0, 700, 63], [1000]], ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
def test_evaluation_in_pieces_equals_evaluation_at_once(counts, mode):
    """Without gradients a few containers are worked on at a time: the same function."""
    packing = plan_packing(random_mask(counts, grid=(30, 40)), WINDOW, 3, mode)
    query, key, value = tensors(packing)
    bias = PositionBias(random_table(), WINDOW)
    at_once = packed_attention(query, key, value, packing, bias, "image_region")
    with torch.no_grad():
        in_pieces = packed_attention(query, key, value, packing, bias, "image_region")
    assert_same(in_pieces, at_once, tolerance=1e-12)
