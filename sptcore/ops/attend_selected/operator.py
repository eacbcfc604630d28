"""`sptcore::attend_selected`: the whole branch as one PyTorch operator, whose result has the shape of its input.

How many tokens were selected shows in no shape, so torch.compile neither breaks its graph here nor compiles anew for
another selection. There is no gradient: training knows its tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from sptcore.ops.attend_selected.plan import PackingRule, plan_on_device
from sptcore.ops.attend_selected.reference import attend_and_add
from sptcore.ops.packed_attention import PositionBias, segment_ids
from sptcore.ops.packed_attention.operator import attend_rows
from sptcore.ops.packing import plan_packing


def attend_branch(
    x: Tensor,
    normed: Tensor,
    gain: Tensor,
    mask: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    table: Tensor | None,
    num_heads: int,
    window_size: int,
    shift_size: int,
    mode: str,
    container_len: int,
    scope: str,
    table_window: int,
    by_slot: bool,
    by_kernel: bool,
) -> Tensor:
    """x + W_o attention(gain x normed) at the tokens of `mask` (B, H, W), x elsewhere; all (B, H, W, C).

    `gain` (B, H, W); the four weights in the dtype of the products; `table` ((2 M - 1)^2, h) of the window M =
    `table_window`. `mode`, `scope`: see `PackingRule`. `by_kernel`: buffers for every token and Triton kernels that
    never wait for the device; otherwise an exact packing in plain torch.
    """
    if x.numel() == 0:
        return x.clone()
    rule = PackingRule(window_size, shift_size, mode, container_len, scope)
    bias = None if table is None else PositionBias(table, table_window, "slot" if by_slot else "spatial")
    weights = (qkv_weight, qkv_bias, proj_weight, proj_bias)
    if by_kernel:
        return _by_kernel(x, normed, gain, mask, weights, num_heads, rule, bias)
    packing = plan_packing(mask, window_size, shift_size, mode, container_len, impl="reference")
    return attend_and_add(x, normed, gain, packing, weights, num_heads, bias, scope)


def _by_kernel(
    x: Tensor,
    normed: Tensor,
    gain: Tensor,
    mask: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    num_heads: int,
    rule: PackingRule,
    bias: PositionBias | None,
) -> Tensor:
    from sptcore.ops.attend_selected import kernel

    packing, starts = plan_on_device(mask, rule)
    qkv_weight, qkv_bias, proj_weight, proj_bias = (weight.contiguous() for weight in weights)
    index, used = packing.token_index, starts[-1:]
    out = x.clone(memory_format=torch.contiguous_format)
    tokens = normed.contiguous().flatten(0, 2)
    rows = kernel.gather_linear(tokens, gain.contiguous().flatten(), index, used, qkv_weight, qkv_bias)
    query, key, value = rows.unflatten(-1, (3, num_heads, -1)).unbind(1)
    mixed, _ = attend_rows(
        query,
        key,
        value,
        starts,
        index,
        None if rule.scope == "image" else segment_ids(packing, rule.scope),
        None if bias is None else bias.table,
        *packing.grid[1:],
        rule.container_len,
        1 if bias is None else bias.window_size,
        bias is not None and bias.by == "slot",
    )
    kernel.linear_scatter_(out.flatten(0, 2), mixed.flatten(1), index, used, proj_weight, proj_bias)
    return out


attend_whole = torch.library.custom_op("sptcore::attend_selected", attend_branch, mutates_args=())


@attend_whole.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@register_flop_formula(torch.ops.sptcore.attend_selected, get_raw=True)
def _flops(x: Tensor, normed: Tensor, gain: Tensor, mask: Tensor, *args: Any, **_: Any) -> int:
    """The products over the selected tokens and whole containers: what the ordinary road is counted for.

    Reads how many tokens were selected, and so waits for the device, as nothing but a counter does. A mask without data
    (fake or on the meta device) counts as full, the most there can be.
    """
    channels, mode, container_len = x.shape[-1], args[8], args[9]
    if mask.is_meta or isinstance(mask, FakeTensor):
        counts = [mask[0].numel()] * mask.shape[0]
    else:
        counts = mask.flatten(1).sum(1).tolist()
    runs = [sum(counts)] if mode == "stream" else counts
    containers = sum(-(-run // container_len) for run in runs)
    return 2 * sum(counts) * 4 * channels**2 + 4 * containers * container_len**2 * channels
