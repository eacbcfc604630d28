"""What the attention mechanisms share: their result, and the parameters of Swin's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sptcore.models.layers import Linear
from sptcore.ops.packing import Packing

if TYPE_CHECKING:
    from sptcore.models.config import BackboneConfig


@dataclass(frozen=True, eq=False)
class Attended:
    """Heads joined, output projection not yet applied: (B, H, W, C) without a packing, (P, C) rows with one."""

    tokens: Tensor
    packing: Packing | None = None


class Attention(nn.Module):
    """The projections and the relative position bias table under the names of the official Swin.

    A mechanism adds `forward(normed, selection) -> Attended`; the block applies `proj`.
    """

    relative_position_bias_table: nn.Parameter | None

    def __init__(
        self, dim: int, num_heads: int, shift_size: int, config: BackboneConfig, *, with_table: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.shift_size = shift_size
        self.window_size = config.window_size
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.relative_position_bias_table = None
        if with_table:
            table = torch.empty((2 * self.window_size - 1) ** 2, num_heads)
            self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
