"""The branch through kernels that never ask how many tokens were selected, in buffers with room for every token."""

from __future__ import annotations

import torch
from torch import Tensor

from sptcore.ops.attend_selected.branch import Branch, FeedForward
from sptcore.ops.attend_selected.plan import PackingRule, plan_on_device
from sptcore.ops.packed_attention import segment_ids
from sptcore.ops.packed_attention.operator import attend_rows
from sptcore.ops.packing import Packing


def run_on_device(
    x: Tensor, scale: Tensor, mask: Tensor, stats: Tensor | None, branch: Branch, rule: PackingRule
) -> Tensor:
    """x (B, H, W, C) and what `branch` adds to it; see `attend_branch`."""
    from sptcore.ops.attend_selected import kernel
    from sptcore.ops.layer_norm.kernel import row_stats

    packing, starts = plan_on_device(mask, rule)
    index, used = packing.token_index, starts[-1:]
    grid, scale = x.contiguous().flatten(0, 2), scale.contiguous().flatten()
    if stats is None:
        stats = row_stats(grid, *((None, None) if branch.passes else (index, used)), branch.norm.eps)
    tokens = kernel.Tokens(grid, stats.flatten(1), branch.norm.weight.contiguous(), branch.norm.bias.contiguous())
    weights = branch.projections
    rows = kernel.gather_linear(tokens, scale, index, used, weights.qkv_weight, weights.qkv_bias)
    mixed = _attend(rows, packing, starts, branch, rule.scope)
    if branch.passes:
        row = rows_of_tokens(index, used)
        return kernel.mixed_linear(tokens, scale, row, mixed, weights.proj_weight, weights.proj_bias).view(x.shape)
    out = x.clone(memory_format=torch.contiguous_format)
    kernel.linear_scatter_(out.flatten(0, 2), mixed, index, used, weights.proj_weight, weights.proj_bias)
    if branch.feed_forward is not None:
        _feed_forward_(out.flatten(0, 2), index, used, branch.feed_forward)
    return out


def _attend(rows: Tensor, packing: Packing, starts: Tensor, branch: Branch, scope: str) -> Tensor:
    """Query, key and value (N, 3C) -> attended rows (N, C), of which the first starts[-1] are in use."""
    query, key, value = rows.unflatten(-1, (3, branch.projections.num_heads, -1)).unbind(1)
    bias = branch.bias
    mixed, _ = attend_rows(
        query,
        key,
        value,
        starts,
        packing.token_index,
        None if scope == "image" else segment_ids(packing, scope),
        None if bias is None else bias.table,
        *packing.grid[1:],
        packing.container_len,
        1 if bias is None else bias.window_size,
        bias is not None and bias.by == "slot",
    )
    return mixed.flatten(1)


def _feed_forward_(grid: Tensor, index: Tensor, used: Tensor, weights: FeedForward) -> None:
    """Norm, Linear, GELU, Linear and residual of the selected tokens of (N, C), in place."""
    from sptcore.ops.attend_selected import kernel
    from sptcore.ops.layer_norm.kernel import row_stats

    stats = row_stats(grid, index, used, weights.norm.eps)
    tokens = kernel.Tokens(grid, stats, weights.norm.weight.contiguous(), weights.norm.bias.contiguous())
    hidden = kernel.gather_linear(tokens, None, index, used, weights.fc1_weight, weights.fc1_bias, gelu=True)
    kernel.linear_scatter_(grid, hidden, index, used, weights.fc2_weight, weights.fc2_bias)


def rows_of_tokens(token_index: Tensor, count: Tensor) -> Tensor:
    """(N,) int64: the packed row of each token, -1 for those behind the first `count` (1,) of `token_index` (N,)."""
    row = torch.arange(token_index.numel(), device=token_index.device)
    place = torch.where(row < count, token_index, token_index.numel())  # all others to a last place that is cut off
    return row.new_full((token_index.numel() + 1,), -1).scatter_(0, place, row)[:-1]
