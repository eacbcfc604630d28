"""Select and Pack Attention (arXiv 2410.23608): attention among the selected tokens, in containers of fixed length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sptcore.models.attention.base import Attended, AttendedInPieces, Attention
from sptcore.models.streaming import PIECE_TOKENS, streams
from sptcore.ops.attend_selected import Branch, FeedForward, PackingRule, Projections, attend_selected, impl_in_use
from sptcore.ops.layer_norm import Norm
from sptcore.ops.packed_attention import PositionBias, packed_attention
from sptcore.ops.packing import Packing, gather, plan_packing, split_containers
from sptcore.ops.selection import Selection

if TYPE_CHECKING:
    from sptcore.models.config import BackboneConfig


class SelectPackAttention(Attention):
    """Gate the selected tokens, pack them, let those of one image and container attend to each other (Eq. 5 to 9)."""

    def __init__(self, dim: int, num_heads: int, shift_size: int, config: BackboneConfig) -> None:
        super().__init__(dim, num_heads, shift_size, config, with_table=config.rpb != "none")
        self.rpb = config.rpb
        self.scope = config.scope
        self.container_len = config.packed_len
        self.train_packing = config.train_packing
        self.eval_packing = config.eval_packing

    def forward(self, normed: Tensor, selection: Selection) -> Attended:
        mode = self.train_packing if self.training else self.eval_packing
        packing = plan_packing(selection.mask, self.window_size, self.shift_size, mode, self.container_len)
        gain = selection.gain.to(normed.dtype)
        if streams(self, normed):  # the same a few containers at a time: no token sees another container
            runs = split_containers(packing, max(1, PIECE_TOKENS // self.container_len))
            return AttendedInPieces(((part, self._attend(normed, gain, part)) for _, part in runs), packing, normed)
        return Attended(self._attend(normed, gain, packing), packing)

    def _attend(self, normed: Tensor, gain: Tensor, packing: Packing) -> Tensor:
        """(B, H, W, C) and the factor of each token (B, H, W) -> (P, C)."""
        tokens, factors = gather(normed, packing), gather(gain, packing).unsqueeze(-1)
        tokens = tokens * factors if torch.is_grad_enabled() else tokens.mul_(factors)  # Eq. 5 and 6
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        return packed_attention(query, key, value, packing, bias=self.position_bias, scope=self.scope).flatten(1)

    def branch(self, norm: Norm, feed_forward: FeedForward | None = None, *, passes: bool = False) -> Branch:
        """What `add_selected` computes: this attention after `norm`, and what follows it (`Branch`)."""
        weights = Projections(self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias, self.num_heads)
        return Branch(norm, weights, self.position_bias, feed_forward, passes)

    def add_selected(self, x: Tensor, selection: Selection, branch: Branch, stats: Tensor | None = None) -> Tensor:
        """x + its branch, in an operator whose shapes do not follow the selection; in evaluation.

        `stats`: mean and 1 / deviation of each token, where known (`gate_stats`).
        """
        rule = PackingRule(self.window_size, self.shift_size, self.eval_packing, self.container_len, self.scope)
        return attend_selected(x, selection, branch, rule, stats, impl_in_use())

    @property
    def position_bias(self) -> PositionBias | None:
        """The table and the way pairs look it up, None with rpb = none."""
        table = self.relative_position_bias_table
        return None if table is None else PositionBias(table, self.window_size, self.rpb)
