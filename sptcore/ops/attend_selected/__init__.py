"""The whole attention branch of an SPA block for inference, without waiting for the device.

The ordinary road asks how many tokens were selected and then works on exactly these. A CUDA graph forbids the question:
here buffers have room for every token, and the kernels read on the device how much of them is in use. How many tokens
that was is not known on the host, so FlopCounterMode does not count this road.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from sptcore.ops.attend_selected.reference import attend_and_add
from sptcore.ops.backend import choose_impl
from sptcore.ops.packed_attention import PositionBias, check_request, kernel_limit, segment_ids
from sptcore.ops.packed_attention.operator import attend_rows
from sptcore.ops.packing import Packing, plan_packing
from sptcore.ops.selection import Selection
from sptcore.ops.windows import window_order


@dataclass(frozen=True, eq=False)
class Projections:
    """The weights of an attention: qkv (3C, C) and (3C,), proj (C, C) and (C,), and the heads that C is cut into."""

    qkv_weight: Tensor
    qkv_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    num_heads: int


@dataclass(frozen=True)
class PackingRule:
    """How the selected tokens are packed, as in `plan_packing`, and which of them see each other (`scope`)."""

    window_size: int
    shift_size: int
    mode: str
    container_len: int
    scope: str = "image"


_asked: ContextVar[bool] = ContextVar("sptcore.ops.attend_selected.without_waiting", default=False)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Inside, SPA blocks in evaluation take this road; while a CUDA graph is captured they take it anyway.

    Run a model so once before capturing it: that compiles the kernels.
    """
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def must_not_wait(x: Tensor) -> bool:
    """Whether nothing may ask the device for the number of tokens: `without_waiting`, or a graph is being captured."""
    return _asked.get() or (x.is_cuda and torch.cuda.is_current_stream_capturing())


def attend_selected(
    x: Tensor,
    normed: Tensor,
    selection: Selection,
    projections: Projections,
    rule: PackingRule,
    bias: PositionBias | None = None,
    impl: str = "auto",
) -> Tensor:
    """x + W_o attention(gain x normed) at the selected tokens, x elsewhere; all (B, H, W, C), no gradient.

    Raises ValueError for an unknown scope, a bias that does not fit, or a kernel that cannot run, which includes any
    call that needs a gradient.
    """
    check_request(bias, rule.scope, rule.container_len)
    limit = kernel_limit(normed.flatten(0, 2).unflatten(-1, (projections.num_heads, -1)))
    if torch.is_grad_enabled():
        limit = "it has no gradient, call it under torch.no_grad()"
    chosen = choose_impl("attend_selected", impl, x.device, limit=limit)
    attend = _attend_by_kernel if chosen == "kernel" else _attend_by_reference
    return attend(x, normed, selection, projections, rule, bias)


def _attend_by_reference(
    x: Tensor,
    normed: Tensor,
    selection: Selection,
    projections: Projections,
    rule: PackingRule,
    bias: PositionBias | None,
) -> Tensor:
    packing = plan_packing(
        selection.mask, rule.window_size, rule.shift_size, rule.mode, rule.container_len, impl="reference"
    )
    weights = (projections.qkv_weight, projections.qkv_bias, projections.proj_weight, projections.proj_bias)
    return attend_and_add(x, normed, selection.gain, packing, weights, projections.num_heads, bias, rule.scope)


def _attend_by_kernel(
    x: Tensor,
    normed: Tensor,
    selection: Selection,
    projections: Projections,
    rule: PackingRule,
    bias: PositionBias | None,
) -> Tensor:
    from sptcore.ops.attend_selected import kernel

    if x.numel() == 0:
        return x.clone()
    packing, starts = plan_on_device(selection.mask, rule)
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else normed.dtype
    weights = (projections.qkv_weight, projections.qkv_bias, projections.proj_weight, projections.proj_bias)
    qkv_weight, qkv_bias, proj_weight, proj_bias = (weight.detach().to(dtype).contiguous() for weight in weights)
    out = x.clone(memory_format=torch.contiguous_format)
    rows = kernel.gather_linear(
        normed.contiguous().flatten(0, 2),
        selection.gain.contiguous().flatten(),
        packing.token_index,
        starts[-1:],
        qkv_weight,
        qkv_bias,
    )
    query, key, value = rows.unflatten(-1, (3, projections.num_heads, -1)).unbind(1)
    mixed, _ = attend_rows(
        query,
        key,
        value,
        starts,
        packing.token_index,
        None if rule.scope == "image" else segment_ids(packing, rule.scope),
        None if bias is None else bias.table,
        *packing.grid[1:],
        rule.container_len,
        1 if bias is None else bias.window_size,
        bias is not None and bias.by == "slot",
    )
    kernel.linear_scatter_(
        out.flatten(0, 2), mixed.flatten(1), packing.token_index, starts[-1:], proj_weight, proj_bias
    )
    return out


def plan_on_device(mask: Tensor, rule: PackingRule) -> tuple[Packing, Tensor]:
    """The packing of `mask` (B, H, W) in buffers for every token, and `starts` (B' + 1,) int32 of its containers.

    B' is what a full mask would need; containers behind the last token are empty. The number of tokens is `starts[-1]`;
    the entries of `token_index`, `image_id` and `position` behind it are zero, `slot` is not laid out.
    """
    from sptcore.ops.packing import kernel

    batch, height, width = mask.shape
    order = window_order(height, width, window_size=rule.window_size, shift_size=rule.shift_size, device=mask.device)
    token_index, image_id, position, counts = kernel.compact(mask.flatten(1), order.cells)
    contiguous = rule.mode == "stream" or batch == 1
    starts = (_stream_starts if contiguous else _aligned_starts)(counts, height * width, rule.container_len)
    packing = Packing(
        grid=(batch, height, width),
        window_size=rule.window_size,
        shift_size=rule.shift_size,
        container_len=rule.container_len,
        num_containers=starts.numel() - 1,
        contiguous=contiguous,
        token_index=token_index,
        image_id=image_id,
        position=position,
        slot=token_index[:0],
    )
    return packing, starts


def _stream_starts(counts: Tensor, tokens: int, length: int) -> Tensor:
    containers = -(-counts.numel() * tokens // length)
    first = torch.arange(containers + 1, device=counts.device) * length
    return torch.minimum(first, counts.sum()).int()


def _aligned_starts(counts: Tensor, tokens: int, length: int) -> Tensor:
    """Every image starts at a container of its own; images without tokens have none."""
    needed = (counts + length - 1).div(length, rounding_mode="floor")
    number = torch.arange(counts.numel() * -(-tokens // length) + 1, device=counts.device)
    image = torch.searchsorted(needed.cumsum(0), number, right=True).clamp_(max=counts.numel() - 1)
    first_container, first_row = needed.cumsum(0) - needed, counts.cumsum(0) - counts
    return torch.minimum(first_row[image] + (number - first_container[image]) * length, counts.sum()).int()
