"""What the attention mechanisms share: their result, and the parameters of Swin's attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sptcore.models.layers import Linear
from sptcore.models.streaming import pieces
from sptcore.ops.packing import Packing

if TYPE_CHECKING:
    from sptcore.models.config import BackboneConfig


class Attended:
    """Heads joined, output projection not yet applied: (B, H, W, C) without a packing, (P, C) rows with one."""

    def __init__(self, tokens: Tensor, packing: Packing | None = None) -> None:
        self._tokens = tokens
        self.packing = packing

    @property
    def tokens(self) -> Tensor:
        return self._tokens

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Grid index (n,) and attended tokens (n, C), a few at a time, of what was packed."""
        assert self.packing is not None, "every token of the grid attended"
        return zip(pieces(self.packing.token_index), pieces(self.tokens), strict=True)


class AttendedInPieces(Attended):
    """The same rows, made a few containers at a time as they are asked for: each stays in the cache until it is used.

    Whoever walks through `rows` must not write over what attention reads before the walk is over.
    """

    def __init__(self, parts: Iterator[tuple[Packing, Tensor]], packing: Packing, like: Tensor) -> None:
        """`parts`: consecutive pieces of `packing`, with the attended tokens of each; (P, C) in the dtype of `like`."""
        self._parts = parts
        self._like = like
        self.packing = packing

    @cached_property
    def tokens(self) -> Tensor:  # type: ignore[override]
        return torch.cat([mixed for _, mixed in self._parts] or [self._like.flatten(0, -2)[:0]])

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Once, and instead of `tokens`."""
        return ((part.token_index, mixed) for part, mixed in self._parts)


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
