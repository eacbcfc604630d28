"""Packed attention as Triton kernels: a program owns one head of one container, which stays on the chip.

The tokens of a container are consecutive in packing order, so two numbers of `starts` describe it and no slot table is
read. A pair is open where the segment ids of its tokens are equal; its position bias is looked up by the clipped offset
of the two, never laid out per pair. Sums run in fp32 and in a fixed order, without atomics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)  # fixed when the kernels below are decorated
LOG2E = tl.constexpr(1.4426950408889634)
CLOSED = tl.constexpr(-1.0e30)  # finite: a row of a tile with closed pairs only still has a maximum to subtract
NO_QUERY = tl.constexpr(-2)  # segment ids of empty slots: they match nothing, not even each other
NO_KEY = tl.constexpr(-1)
PARTIAL = tl.constexpr(False)  # not all keys of a query are in one tile
BIAS_NONE = tl.constexpr(0)
BIAS_SPATIAL = tl.constexpr(1)
BIAS_SLOT = tl.constexpr(2)
RUNTIME_SIZES = ["height", "width", "num_heads"]  # no kernel of its own for every grid


@triton.jit
def _load_rows(pointer, rows, inside, row_stride, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows (R, BLOCK_D) of one head; zero in empty slots and beyond the head."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < HEAD_DIM)[None, :]
    return tl.load(pointer + rows[:, None] * row_stride + dims[None, :], mask=mask, other=0.0)


@triton.jit
def _store_rows(pointer, rows, inside, row_stride, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store rows (R, BLOCK_D) of one head, those of empty slots left out."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(pointer + rows[:, None] * row_stride + dims[None, :], values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _load_places(
    tokens_ptr, segments_ptr, rows, slots, inside, height, width,
    NOBODY: tl.constexpr, SEGMENTED: tl.constexpr, BIAS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Segment id (NOBODY in empty slots) and place (y, x) of R tokens, int32: on the grid, or in an M x M window."""
    token = tl.load(tokens_ptr + rows, mask=inside, other=0)
    cell = (token % (height * width)).to(tl.int32)
    if SEGMENTED:
        segment = tl.load(segments_ptr + rows, mask=inside, other=NOBODY).to(tl.int32)
    else:
        segment = tl.where(inside, (token // (height * width)).to(tl.int32), NOBODY)
    if BIAS == BIAS_SLOT:
        y = slots // WINDOW
        x = slots % WINDOW
    else:
        y = cell // width
        x = cell % width
    return segment, y, x


@triton.jit
def _clip(offset, WINDOW: tl.constexpr):
    """Offsets (Q, K) -> index 0..2M-2 on one axis of the bias table."""
    return tl.minimum(tl.maximum(offset, 1 - WINDOW), WINDOW - 1) + WINDOW - 1


@triton.jit
def _scores(
    q, k, q_segment, q_y, q_x, k_segment, k_y, k_x, table_ptr, scale, BIAS: tl.constexpr, WINDOW: tl.constexpr
):  # fmt: skip
    """q (Q, d), k (K, d) -> logits (Q, K) in base 2, fp32; CLOSED where the segments differ."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
    if BIAS != BIAS_NONE:
        dy = _clip(q_y[:, None] - k_y[None, :], WINDOW)
        dx = _clip(q_x[:, None] - k_x[None, :], WINDOW)
        scores += tl.load(table_ptr + dy * (2 * WINDOW - 1) + dx) * LOG2E
    return tl.where(q_segment[:, None] == k_segment[None, :], scores, CLOSED)


@triton.jit
def _score_gradient(weights, grad, v, delta, WHOLE_ROWS: tl.constexpr):
    """Gradient (Q, K) of the natural logits, P * (dO V^T - delta), and delta = sum over keys of P * dO V^T; fp32."""
    grad_weights = tl.dot(grad, tl.trans(v), input_precision="ieee")
    if WHOLE_ROWS:  # all keys are here: exact, where the given delta has the rounding of the output
        delta = tl.sum(weights * grad_weights, 1)
    return weights * (grad_weights - tl.expand_dims(delta, 1)), delta


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def _forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, starts_ptr, tokens_ptr, segments_ptr, table_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head, height, width, num_heads, scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, ONE_TILE: tl.constexpr,
    SEGMENTED: tl.constexpr, BIAS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp (base 2) of one tile of queries of one head of one container, online over key tiles."""
    container = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(starts_ptr + container).to(tl.int64)
    length = (tl.load(starts_ptr + container + 1) - start).to(tl.int32)
    if tl.program_id(2) * BLOCK >= length:
        return
    tiles = 1 if ONE_TILE else tl.cdiv(length, BLOCK)
    table_ptr += head * (2 * WINDOW - 1) * (2 * WINDOW - 1)
    flat_row = num_heads * HEAD_DIM  # of the contiguous (P, h, d) output

    q_slots = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    q_inside = q_slots < length
    q_rows = start + q_slots
    q = _load_rows(q_ptr + head * q_head, q_rows, q_inside, q_row, HEAD_DIM, BLOCK_D)
    q_segment, q_y, q_x = _load_places(
        tokens_ptr, segments_ptr, q_rows, q_slots, q_inside, height, width, NO_QUERY, SEGMENTED, BIAS, WINDOW
    )
    top = tl.full((BLOCK,), CLOSED, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    out = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for tile in range(tiles):
        k_slots = tile * BLOCK + tl.arange(0, BLOCK)
        k_inside = k_slots < length
        k_rows = start + k_slots
        k = _load_rows(k_ptr + head * k_head, k_rows, k_inside, k_row, HEAD_DIM, BLOCK_D)
        v = _load_rows(v_ptr + head * v_head, k_rows, k_inside, v_row, HEAD_DIM, BLOCK_D)
        k_segment, k_y, k_x = _load_places(
            tokens_ptr, segments_ptr, k_rows, k_slots, k_inside, height, width, NO_KEY, SEGMENTED, BIAS, WINDOW
        )
        scores = _scores(q, k, q_segment, q_y, q_x, k_segment, k_y, k_x, table_ptr, scale, BIAS, WINDOW)  # (Q, K)
        new_top = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(scores - new_top[:, None])
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top
    _store_rows(out_ptr + head * HEAD_DIM, q_rows, q_inside, flat_row, out / total[:, None], HEAD_DIM, BLOCK_D)
    tl.store(lse_ptr + q_rows * num_heads + head, top + tl.log2(total), mask=q_inside)


@triton.jit
def _load_queries(
    q_ptr, grad_ptr, out_ptr, lse_ptr, rows, inside, q_row, num_heads,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE_ROWS: tl.constexpr,
):  # fmt: skip
    """What the backward pass needs of R queries: q, dO (R, d), log-sum-exp, and of partial rows delta = sum(O * dO)."""
    q = _load_rows(q_ptr, rows, inside, q_row, HEAD_DIM, BLOCK_D)
    grad = _load_rows(grad_ptr, rows, inside, num_heads * HEAD_DIM, HEAD_DIM, BLOCK_D)
    lse = tl.load(lse_ptr + rows * num_heads, mask=inside, other=0.0)
    if WHOLE_ROWS:
        delta = lse
    else:
        out = _load_rows(out_ptr, rows, inside, num_heads * HEAD_DIM, HEAD_DIM, BLOCK_D)
        delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    return q, grad, lse, delta


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def _backward(
    q_ptr, k_ptr, v_ptr, grad_ptr, out_ptr, lse_ptr, dq_ptr, dk_ptr, dv_ptr, delta_ptr,
    starts_ptr, tokens_ptr, segments_ptr, table_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head, height, width, num_heads, scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, ONE_TILE: tl.constexpr,
    SEGMENTED: tl.constexpr, BIAS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """dq, dk, dv and delta of one head of one container; the weights are recomputed from the log-sum-exp."""
    container = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(starts_ptr + container).to(tl.int64)
    length = (tl.load(starts_ptr + container + 1) - start).to(tl.int32)
    if length <= 0:
        return
    tiles = 1 if ONE_TILE else tl.cdiv(length, BLOCK)
    table_ptr += head * (2 * WINDOW - 1) * (2 * WINDOW - 1)
    q_ptr += head * q_head
    k_ptr += head * k_head
    v_ptr += head * v_head
    flat = head * HEAD_DIM  # of the contiguous (P, h, d) tensors
    flat_row = num_heads * HEAD_DIM

    for key_tile in range(tiles):
        k_slots = key_tile * BLOCK + tl.arange(0, BLOCK)
        k_inside = k_slots < length
        k_rows = start + k_slots
        k = _load_rows(k_ptr, k_rows, k_inside, k_row, HEAD_DIM, BLOCK_D)
        v = _load_rows(v_ptr, k_rows, k_inside, v_row, HEAD_DIM, BLOCK_D)
        k_segment, k_y, k_x = _load_places(
            tokens_ptr, segments_ptr, k_rows, k_slots, k_inside, height, width, NO_KEY, SEGMENTED, BIAS, WINDOW
        )
        dk = tl.zeros((BLOCK, BLOCK_D), tl.float32)
        dv = tl.zeros((BLOCK, BLOCK_D), tl.float32)
        for query_tile in range(tiles):
            q_slots = query_tile * BLOCK + tl.arange(0, BLOCK)
            q_inside = q_slots < length
            q_rows = start + q_slots
            q, grad, lse, delta = _load_queries(
                q_ptr, grad_ptr + flat, out_ptr + flat, lse_ptr + head, q_rows, q_inside, q_row, num_heads,
                HEAD_DIM, BLOCK_D, ONE_TILE,
            )  # fmt: skip
            q_segment, q_y, q_x = _load_places(
                tokens_ptr, segments_ptr, q_rows, q_slots, q_inside, height, width, NO_QUERY, SEGMENTED, BIAS, WINDOW
            )
            scores = _scores(q, k, q_segment, q_y, q_x, k_segment, k_y, k_x, table_ptr, scale, BIAS, WINDOW)
            weights = tl.exp2(scores - lse[:, None])
            dv += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision="ieee")
            d_scores, delta = _score_gradient(weights, grad, v, delta, ONE_TILE)  # (Q, K)
            d_scores = d_scores.to(q.dtype)
            dk += tl.dot(tl.trans(d_scores), q, input_precision="ieee")
            if ONE_TILE:
                tl.store(delta_ptr + q_rows * num_heads + head, delta, mask=q_inside)
                dq = tl.dot(d_scores, k, input_precision="ieee") * scale
                _store_rows(dq_ptr + flat, q_rows, q_inside, flat_row, dq, HEAD_DIM, BLOCK_D)
        _store_rows(dk_ptr + flat, k_rows, k_inside, flat_row, dk * scale, HEAD_DIM, BLOCK_D)
        _store_rows(dv_ptr + flat, k_rows, k_inside, flat_row, dv, HEAD_DIM, BLOCK_D)

    if not ONE_TILE:  # dq in a second walk: adding to it from several key tiles would need atomics or a buffer
        for query_tile in range(tiles):
            q_slots = query_tile * BLOCK + tl.arange(0, BLOCK)
            q_inside = q_slots < length
            q_rows = start + q_slots
            q, grad, lse, delta = _load_queries(
                q_ptr, grad_ptr + flat, out_ptr + flat, lse_ptr + head, q_rows, q_inside, q_row, num_heads,
                HEAD_DIM, BLOCK_D, PARTIAL,
            )  # fmt: skip
            q_segment, q_y, q_x = _load_places(
                tokens_ptr, segments_ptr, q_rows, q_slots, q_inside, height, width, NO_QUERY, SEGMENTED, BIAS, WINDOW
            )
            dq = tl.zeros((BLOCK, BLOCK_D), tl.float32)
            for key_tile in range(tiles):
                k_slots = key_tile * BLOCK + tl.arange(0, BLOCK)
                k_inside = k_slots < length
                k_rows = start + k_slots
                k = _load_rows(k_ptr, k_rows, k_inside, k_row, HEAD_DIM, BLOCK_D)
                v = _load_rows(v_ptr, k_rows, k_inside, v_row, HEAD_DIM, BLOCK_D)
                k_segment, k_y, k_x = _load_places(
                    tokens_ptr, segments_ptr, k_rows, k_slots, k_inside, height, width,
                    NO_KEY, SEGMENTED, BIAS, WINDOW,
                )  # fmt: skip
                scores = _scores(q, k, q_segment, q_y, q_x, k_segment, k_y, k_x, table_ptr, scale, BIAS, WINDOW)
                weights = tl.exp2(scores - lse[:, None])
                d_scores, delta = _score_gradient(weights, grad, v, delta, PARTIAL)
                dq += tl.dot(d_scores.to(k.dtype), k, input_precision="ieee")
            tl.store(delta_ptr + q_rows * num_heads + head, delta, mask=q_inside)
            _store_rows(dq_ptr + flat, q_rows, q_inside, flat_row, dq * scale, HEAD_DIM, BLOCK_D)


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def _backward_table(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, partial_ptr, starts_ptr, tokens_ptr, segments_ptr, table_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head, height, width, num_heads, scale,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, SIDE: tl.constexpr,
    SEGMENTED: tl.constexpr, BIAS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Gradient of the bias table from one head of one container: sum over pairs of d_score where (dy, dx) = (y, x).

    Written as a product (SIDE, pairs) @ (pairs, SIDE) of d_score * [dy = y] and [dx = x]: no atomics, tensor cores.
    """
    container = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(starts_ptr + container).to(tl.int64)
    length = (tl.load(starts_ptr + container + 1) - start).to(tl.int32)
    table_ptr += head * (2 * WINDOW - 1) * (2 * WINDOW - 1)
    side = tl.arange(0, SIDE)

    total = tl.zeros((SIDE, SIDE), tl.float32)
    for first_query in range(0, length, QUERIES):
        q_slots = first_query + tl.arange(0, QUERIES)
        q_inside = q_slots < length
        q_rows = start + q_slots
        q = _load_rows(q_ptr + head * q_head, q_rows, q_inside, q_row, HEAD_DIM, BLOCK_D)
        grad = _load_rows(grad_ptr + head * HEAD_DIM, q_rows, q_inside, num_heads * HEAD_DIM, HEAD_DIM, BLOCK_D)
        lse = tl.load(lse_ptr + q_rows * num_heads + head, mask=q_inside, other=0.0)
        delta = tl.load(delta_ptr + q_rows * num_heads + head, mask=q_inside, other=0.0)
        q_segment, q_y, q_x = _load_places(
            tokens_ptr, segments_ptr, q_rows, q_slots, q_inside, height, width, NO_QUERY, SEGMENTED, BIAS, WINDOW
        )
        for first_key in range(0, length, KEYS):
            k_slots = first_key + tl.arange(0, KEYS)
            k_inside = k_slots < length
            k_rows = start + k_slots
            k = _load_rows(k_ptr + head * k_head, k_rows, k_inside, k_row, HEAD_DIM, BLOCK_D)
            v = _load_rows(v_ptr + head * v_head, k_rows, k_inside, v_row, HEAD_DIM, BLOCK_D)
            k_segment, k_y, k_x = _load_places(
                tokens_ptr, segments_ptr, k_rows, k_slots, k_inside, height, width, NO_KEY, SEGMENTED, BIAS, WINDOW
            )
            scores = _scores(q, k, q_segment, q_y, q_x, k_segment, k_y, k_x, table_ptr, scale, BIAS, WINDOW)
            weights = tl.exp2(scores - lse[:, None])
            d_scores, delta = _score_gradient(weights, grad, v, delta, PARTIAL)
            d_scores = tl.reshape(d_scores, (QUERIES * KEYS,))
            dy = tl.reshape(_clip(q_y[:, None] - k_y[None, :], WINDOW), (QUERIES * KEYS,))
            dx = tl.reshape(_clip(q_x[:, None] - k_x[None, :], WINDOW), (QUERIES * KEYS,))
            by_row = tl.where(dy[None, :] == side[:, None], d_scores[None, :], 0.0)  # (SIDE, pairs)
            by_column = tl.where(dx[:, None] == side[None, :], 1.0, 0.0)  # (pairs, SIDE)
            total += tl.dot(by_row.to(q.dtype), by_column.to(q.dtype), input_precision="ieee")
    in_table = (side < 2 * WINDOW - 1)[:, None] & (side < 2 * WINDOW - 1)[None, :]
    partial_ptr += (container * num_heads + head) * (2 * WINDOW - 1) * (2 * WINDOW - 1)
    tl.store(partial_ptr + side[:, None] * (2 * WINDOW - 1) + side[None, :], total, mask=in_table)


@dataclass(frozen=True)
class Places:
    """Where the tokens of one call sit: `starts` (B'+1,) int32, first row of each container and the end of the last.

    `token_index` (P,) int64 into the flat (B, height, width) grid. `segments` (P,) int64 below 2**31, or None where the
    image alone decides who sees whom. A bias has `window_size` M and goes `by_slot` or by grid offset.
    """

    starts: Tensor
    token_index: Tensor
    segments: Tensor | None
    height: int
    width: int
    container_len: int
    window_size: int
    by_slot: bool


def forward(q: Tensor, k: Tensor, v: Tensor, places: Places, table: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (P, h, d) and log-sum-exp (P, h) in base 2; `table` (h, (2M-1)^2) fp32. Rows past the end are left."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    _launch("forward", (q, k, v), (out, lse), places, table)
    return out, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, places: Places, table: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients (P, h, d) of q, k and v, and delta (P, h); `grad`, `out` and `lse` are contiguous."""
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    delta = torch.empty_like(lse)
    _launch("backward", (q, k, v), (grad, out, lse, dq, dk, dv, delta), places, table)
    return dq, dk, dv, delta


def backward_table(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, places: Places, table: Tensor
) -> Tensor:
    """Gradient (h, (2M-1)^2) fp32 of the bias table: one partial a container and head, then a sum in fixed order."""
    containers = places.starts.numel() - 1
    partial = torch.empty(containers, *table.shape, dtype=torch.float32, device=q.device)
    _launch("table", (q, k, v), (grad, lse, delta, partial), places, table)
    return partial.sum(0)


KERNELS: dict[str, Any] = {"forward": _forward, "backward": _backward, "table": _backward_table}


def options(step: str, dtype: torch.dtype, head_dim: int, container_len: int, window_size: int) -> dict[str, int]:
    """Block sizes, warps and stages of one step: what compiles for sm_90 without spilling registers (tests hold it)."""
    plain = dtype == torch.float32  # multiply-add instead of tensor cores: operands live in registers
    shared = {
        "HEAD_DIM": head_dim,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
        "WINDOW": window_size,
        "num_stages": 1 if plain or step == "table" else 3,
    }
    if step == "table":
        side = max(16, triton.next_power_of_2(2 * window_size - 1))
        return shared | {"QUERIES": 16, "KEYS": 16, "SIDE": side, "num_warps": 8}
    short = container_len <= 64
    if plain:
        block, warps = (64 if short and head_dim <= 32 else 32), 8
    else:
        block, warps = (64 if short or step == "forward" else 32), (4 if short else 8)
    block = min(block, max(16, triton.next_power_of_2(container_len)))
    return shared | {"BLOCK": block, "ONE_TILE": container_len <= block, "num_warps": warps}


def _launch(
    step: str, rows: tuple[Tensor, ...], others: tuple[Tensor, ...], places: Places, table: Tensor | None
) -> None:  # fmt: skip
    """One program a container and head, and in the forward step a tile of queries; nothing to do without containers."""
    q = rows[0]
    if q.device.type != "cuda" and not INTERPRETED:
        raise ValueError("Triton kernels run on a CPU only when TRITON_INTERPRET=1 was set before their first use")
    chosen = options(step, q.dtype, q.shape[2], places.container_len, places.window_size)
    tiles = triton.cdiv(places.container_len, chosen["BLOCK"]) if step == "forward" else 1
    grid = (places.starts.numel() - 1, q.shape[1], tiles)
    if grid[0] == 0:
        return
    bias = BIAS_NONE if table is None else BIAS_SLOT if places.by_slot else BIAS_SPATIAL
    with torch.cuda.device_of(q):
        KERNELS[step][grid](
            *rows, *others, places.starts, places.token_index,
            q if places.segments is None else places.segments, q if table is None else table,  # q: never read
            *(stride for tensor in rows for stride in tensor.stride()[:2]),
            places.height, places.width, q.shape[1], q.shape[2] ** -0.5,
            SEGMENTED=places.segments is not None, BIAS=bias.value, **chosen,
        )  # fmt: skip
