"""What an SPA block computes from its selected tokens: the weights, and what becomes of the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sptcore.ops.layer_norm import Norm
from sptcore.ops.packed_attention import PositionBias


@dataclass(frozen=True, eq=False)
class Projections:
    """The weights of an attention: qkv (3C, C) and (3C,), proj (C, C) and (C,), and the heads that C is cut into."""

    qkv_weight: Tensor
    qkv_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    num_heads: int


@dataclass(frozen=True, eq=False)
class FeedForward:
    """A norm, Linear (D, C) and (D,), GELU, Linear (C, D) and (C,)."""

    norm: Norm
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor


@dataclass(frozen=True, eq=False)
class Branch:
    """Norm, attention and projection of the selected tokens, and what follows.

    `feed_forward`: the selected tokens take it as well, the others skip the block whole. `passes`: the others take the
    projection too, as sigmoid(score) x LN(x) (Eq. 9 to the letter). Neither: the others stay as they are.
    """

    norm: Norm
    projections: Projections
    bias: PositionBias | None = None
    feed_forward: FeedForward | None = None
    passes: bool = False
