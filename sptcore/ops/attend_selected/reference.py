"""The attention branch in plain torch: the specification, through an exact packing."""

from __future__ import annotations

import torch
from torch import Tensor

from sptcore.ops.linear import linear
from sptcore.ops.packed_attention import PositionBias, packed_attention
from sptcore.ops.packing import PIECE_TOKENS, Packing, gather, split_containers


def attend_and_add(
    x: Tensor,
    normed: Tensor,
    gain: Tensor,
    packing: Packing,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    num_heads: int,
    bias: PositionBias | None,
    scope: str,
) -> Tensor:
    """x + the projected attention among the tokens of `packing`; `weights` as in `Projections`."""
    qkv_weight, qkv_bias, proj_weight, proj_bias = weights
    out = x.clone(memory_format=torch.contiguous_format)
    flat, gain = out.view(-1, x.shape[-1]), gain.to(normed.dtype)
    for _, part in split_containers(packing, max(1, PIECE_TOKENS // packing.container_len)):
        tokens = gather(normed, part) * gather(gain, part).unsqueeze(-1)  # Eq. 5 and 6
        query, key, value = (
            linear(tokens.to(qkv_weight.dtype), qkv_weight, qkv_bias).unflatten(-1, (3, num_heads, -1)).unbind(1)
        )
        mixed = packed_attention(query, key, value, part, bias, scope, impl="reference").flatten(1)
        rows = flat.index_select(0, part.token_index) + linear(mixed, proj_weight, proj_bias).to(x.dtype)
        flat.index_copy_(0, part.token_index, rows)
    return out
