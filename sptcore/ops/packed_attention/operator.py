"""`sptcore::packed_attention`: the kernels as one PyTorch operator with gradient, shapes and operation count.

Registered when this module is imported; the kernels, and with them Triton, are imported when the operator first runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("sptcore::packed_attention", mutates_args=())
def attend_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    token_index: Tensor,
    segments: Tensor | None,
    table: Tensor | None,
    height: int,
    width: int,
    container_len: int,
    window_size: int,
    by_slot: bool,
) -> tuple[Tensor, Tensor]:
    """Packed attention of (P, h, d) rows: output (P, h, d) and log-sum-exp (P, h) fp32 in base 2.

    Container c holds rows `starts[c]` to `starts[c + 1]`, at most `container_len`. `table` ((2M-1)^2, h) of any float
    type. Rows from `starts[-1]` on are neither read nor written, so that buffers may be larger than what they hold.
    Raises ValueError for tensors that do not fit each other.
    """
    _check(query, key, value, token_index, segments, table, window_size)
    from sptcore.ops.packed_attention import kernel

    places = kernel.Places(starts, token_index, segments, height, width, container_len, window_size, by_slot)
    return kernel.forward(_unit_stride(query), _unit_stride(key), _unit_stride(value), places, _by_head(table))


@attend_rows.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query, memory_format=torch.contiguous_format), query.new_empty(
        query.shape[:2], dtype=torch.float32
    )


@torch.library.custom_op("sptcore::packed_attention_backward", mutates_args=())
def attend_rows_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor,
    token_index: Tensor,
    segments: Tensor | None,
    table: Tensor | None,
    height: int,
    width: int,
    container_len: int,
    window_size: int,
    by_slot: bool,
    table_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value (P, h, d), and of the table ((2M-1)^2, h), empty without `table_grad`."""
    from sptcore.ops.packed_attention import kernel

    places = kernel.Places(starts, token_index, segments, height, width, container_len, window_size, by_slot)
    grad, query, key, value = grad.contiguous(), _unit_stride(query), _unit_stride(key), _unit_stride(value)
    by_head = _by_head(table)
    d_query, d_key, d_value, delta = kernel.backward(grad, query, key, value, out, lse, places, by_head)
    if table is None or by_head is None or not table_grad:
        return d_query, d_key, d_value, query.new_empty(0)
    d_table = kernel.backward_table(grad, query, key, value, lse, delta, places, by_head)
    return d_query, d_key, d_value, d_table.t().contiguous().to(table.dtype)


@attend_rows_backward.register_fake
def _(grad: Tensor, query: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    table, table_grad = rest[7], rest[13]
    d_query, d_key, d_value = (torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(3))
    if table is None or not table_grad:
        return d_query, d_key, d_value, query.new_empty(0)
    return d_query, d_key, d_value, torch.empty_like(table, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, starts, token_index, segments, table, *sizes = inputs
    ctx.save_for_backward(query, key, value, *output, starts, token_index, segments, table)
    ctx.sizes = sizes


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    table_grad = ctx.needs_input_grad[6]
    *d_rows, d_table = attend_rows_backward(grad, *ctx.saved_tensors, *ctx.sizes, table_grad)
    return *d_rows, None, None, None, d_table if table_grad else None, *([None] * 5)


attend_rows.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.sptcore.packed_attention)
def _flops(query_shape: Any, key_shape: Any, value_shape: Any, starts_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Two matrix products over whole containers, as scaled_dot_product_attention is counted: 4 B' h L^2 d."""
    return 4 * _container_products(query_shape, starts_shape, container_len=args[5])


@register_flop_formula(torch.ops.sptcore.packed_attention_backward)
def _backward_flops(grad_shape: Any, query_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Five matrix products over whole containers; the table's gradient counts as a gather, 0."""
    return 10 * _container_products(query_shape, starts_shape=args[4], container_len=args[10])


def _container_products(query_shape: Any, starts_shape: Any, container_len: int) -> int:
    """Multiply-adds of one product q k^T over all heads and containers: B' h L^2 d."""
    _, num_heads, head_dim = query_shape
    return (starts_shape[0] - 1) * num_heads * container_len**2 * head_dim


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_index: Tensor,
    segments: Tensor | None,
    table: Tensor | None,
    window_size: int,
) -> None:
    """Raise ValueError before a kernel would read past the end of a tensor."""
    tokens, num_heads, _ = query.shape
    for name, rows in (("key", key), ("value", value)):
        if rows.shape != query.shape or rows.dtype != query.dtype:
            raise ValueError(f"{name} must be {tuple(query.shape)} {query.dtype}, got {tuple(rows.shape)} {rows.dtype}")
    for name, places in (("token_index", token_index), ("segments", segments)):
        if places is not None and (places.shape != (tokens,) or not places.is_contiguous()):
            raise ValueError(f"{name} must be contiguous of shape ({tokens},), got {tuple(places.shape)}")
    expected = ((2 * window_size - 1) ** 2, num_heads)
    if table is not None and table.shape != expected:
        raise ValueError(f"the bias table of window_size {window_size} must be {expected}, got {tuple(table.shape)}")


def _unit_stride(rows: Tensor) -> Tensor:
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _by_head(table: Tensor | None) -> Tensor | None:
    """(T, h) -> (h, T) fp32: the table of one head lies together; free for the transposed view of such a tensor."""
    return None if table is None else table.t().float().contiguous()
