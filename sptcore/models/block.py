"""One transformer block: norm, attention, residual, norm, feed-forward network, residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sptcore.models.attention.base import Attended, Attention
from sptcore.models.layers import DropPath, Mlp
from sptcore.models.selectors import TokenContext
from sptcore.models.streaming import pieces, streams
from sptcore.ops.packing import Packing, add_rows_, gather, scatter
from sptcore.ops.selection import Selection


@dataclass(frozen=True, eq=False)
class BlockOutput:
    """The tokens (B, H, W, C) after a block, and what it selected and packed (None in a dense block)."""

    tokens: Tensor
    selection: Selection | None = None
    packing: Packing | None = None


class Block(nn.Module):
    """A pre-norm block made of three arguments: a selector (or None), an attention, a bypass of unselected tokens."""

    def __init__(
        self,
        dim: int,
        *,
        selector: nn.Module | None,
        attention: Attention,
        bypass: str = "identity",
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.selector = selector
        self.attn: Attention = attention
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.bypass = bypass

    def forward(self, x: Tensor, context: TokenContext) -> BlockOutput:
        """`x` (B, H, W, C) -> BlockOutput with tokens of the same shape."""
        normed = self.norm1(x)
        selection = None if self.selector is None else self.selector(x, normed, context)
        attended = self.attn(normed, selection)
        finish = self._finish_in_pieces if streams(self, x) else self._finish
        return BlockOutput(finish(x, normed, attended, selection), selection, attended.packing)

    def _finish(self, x: Tensor, normed: Tensor, attended: Attended, selection: Selection | None) -> Tensor:
        """Both residual branches."""
        packing = attended.packing
        if packing is None or selection is None:
            x = x + self.drop_path(self.attn.proj(attended.tokens))
        elif self.bypass == "proj":
            x = x + self.drop_path(self._project_all(attended.tokens, normed, packing, selection))
        else:
            rows = self.attn.proj(attended.tokens)
            x = x + scatter(self.drop_path(rows, packing.image_id, x.shape[0]), packing)
        if packing is None or self.bypass != "skip_block":
            return x + self.drop_path(self.mlp(self.norm2(x)))
        rows = self.mlp(self.norm2(gather(x, packing)))
        return x + scatter(self.drop_path(rows, packing.image_id, x.shape[0]), packing)

    def _finish_in_pieces(self, x: Tensor, normed: Tensor, attended: Attended, selection: Selection | None) -> Tensor:
        """The same as `_finish` a few rows at a time, where no path is dropped and no gradient needed."""
        packing = attended.packing
        if packing is None or selection is None:
            x, branch = torch.empty_like(x), x
            for rows, start, mixed in zip(pieces(x), pieces(branch), pieces(attended.tokens), strict=True):
                torch.add(start, self.attn.proj(mixed), out=rows)
                rows += self.mlp(self.norm2(rows))
            return x
        if self.bypass == "proj":
            x = x + self._project_all(attended.tokens, normed, packing, selection)
        else:
            x = x.clone()
            add_rows_(x, self.attn.proj(attended.tokens), packing)
        if self.bypass == "skip_block":
            add_rows_(x, self.mlp(self.norm2(gather(x, packing))), packing)
            return x
        for rows in pieces(x):
            rows += self.mlp(self.norm2(rows))
        return x

    def _project_all(self, tokens: Tensor, normed: Tensor, packing: Packing, selection: Selection) -> Tensor:
        """Eq. 9 to the letter: W_o on all N tokens; the unselected enter as sigmoid(score) x LN(x)."""
        passed = normed * selection.scale.unsqueeze(-1).to(normed.dtype)
        mixed = passed.flatten(0, 2).index_copy(0, packing.token_index, tokens.to(passed.dtype))
        return self.attn.proj(mixed.view_as(normed))
