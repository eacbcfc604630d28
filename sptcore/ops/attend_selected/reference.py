"""The attention branch in plain torch: the specification, through an exact packing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sptcore.ops.packed_attention import PositionBias, packed_attention
from sptcore.ops.packing import Packing, gather, scatter


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
    tokens = gather(normed, packing) * gather(gain.to(normed.dtype), packing).unsqueeze(-1)  # Eq. 5 and 6
    query, key, value = F.linear(tokens, qkv_weight, qkv_bias).unflatten(-1, (3, num_heads, -1)).unbind(1)
    mixed = packed_attention(query, key, value, packing, bias, scope, impl="reference").flatten(1)
    return x + scatter(F.linear(mixed, proj_weight, proj_bias), packing)
