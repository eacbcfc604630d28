"""The branch in plain torch: the specification, through an exact packing, a few containers at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sptcore.ops.attend_selected.branch import Branch, FeedForward
from sptcore.ops.linear import linear
from sptcore.ops.packed_attention import packed_attention
from sptcore.ops.packing import PIECE_TOKENS, Packing, split_containers


def run_exactly(x: Tensor, scale: Tensor, packing: Packing, branch: Branch, scope: str) -> Tensor:
    """x (B, H, W, C) and what `branch` adds to it; `scale` (B, H, W): the factor of each normed token (Eq. 5, 6)."""
    return (_pass_all if branch.passes else _on_selected)(x, scale, packing, branch, scope)


def _on_selected(x: Tensor, scale: Tensor, packing: Packing, branch: Branch, scope: str) -> Tensor:
    """The selected tokens take both halves of the block, or the first alone; the others are left."""
    out = x.clone(memory_format=torch.contiguous_format)
    flat, second = out.view(-1, x.shape[-1]), branch.feed_forward
    for part, rows, mixed in _attended(flat, scale.flatten(), packing, branch, scope):
        rows = rows + _project(mixed, branch).to(x.dtype)
        if second is not None:
            for piece in rows.split(PIECE_TOKENS):
                piece += _feed_forward(piece, second).to(x.dtype)
        flat.index_copy_(0, part.token_index, rows)
    return out


def _pass_all(x: Tensor, scale: Tensor, packing: Packing, branch: Branch, scope: str) -> Tensor:
    """Eq. 9 to the letter: the projection of all tokens, the unselected as sigmoid(score) x LN(x)."""
    flat, scale = x.reshape(-1, x.shape[-1]), scale.flatten()
    dtype = branch.projections.proj_weight.dtype
    passed = branch.norm(flat).mul_(scale.to(x.dtype).unsqueeze(-1)).to(dtype)
    for part, _, mixed in _attended(flat, scale, packing, branch, scope):
        passed.index_copy_(0, part.token_index, mixed)
    out = torch.empty_like(flat, memory_format=torch.contiguous_format)
    for into, start, piece in zip(*(one.split(PIECE_TOKENS) for one in (out, flat, passed)), strict=True):
        torch.add(start, _project(piece, branch).to(x.dtype), out=into)
    return out.view(x.shape)


def _attended(
    flat: Tensor, scale: Tensor, packing: Packing, branch: Branch, scope: str
) -> Iterator[tuple[Packing, Tensor, Tensor]]:
    """A few containers at a time: their packing, their tokens (P', C) and what attention makes of these (P', C)."""
    weights = branch.projections
    for _, part in split_containers(packing, max(1, PIECE_TOKENS // packing.container_len)):
        rows = flat.index_select(0, part.token_index)
        factors = scale.index_select(0, part.token_index).to(flat.dtype).unsqueeze(-1)
        tokens = branch.norm(rows).mul_(factors).to(weights.qkv_weight.dtype)
        qkv = linear(tokens, weights.qkv_weight, weights.qkv_bias).unflatten(-1, (3, weights.num_heads, -1))
        query, key, value = qkv.unbind(1)
        mixed = packed_attention(query, key, value, part, branch.bias, scope, impl="reference")
        yield part, rows, mixed.flatten(1)


def _project(mixed: Tensor, branch: Branch) -> Tensor:
    return linear(mixed, branch.projections.proj_weight, branch.projections.proj_bias)


def _feed_forward(rows: Tensor, weights: FeedForward) -> Tensor:
    hidden = linear(weights.norm(rows).to(weights.fc1_weight.dtype), weights.fc1_weight, weights.fc1_bias)
    return linear(torch.ops.aten.gelu_(hidden), weights.fc2_weight, weights.fc2_bias)
