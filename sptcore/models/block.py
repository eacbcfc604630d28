"""One transformer block: norm, attention, residual, norm, feed-forward network, residual."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sptcore.models.attention.base import Attended, Attention
from sptcore.models.layers import DropPath, Mlp
from sptcore.models.selectors import TokenContext
from sptcore.ops.packing import Packing, gather, scatter
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
        x = x + self._branch(attended, normed, selection)
        x = self._feed_forward(x, attended.packing)
        return BlockOutput(x, selection, attended.packing)

    def _branch(self, attended: Attended, normed: Tensor, selection: Selection | None) -> Tensor:
        """The attention branch on the whole grid; the bypass decides what unselected tokens take from it."""
        packing, project = attended.packing, self.attn.proj
        if packing is None or selection is None:
            return self.drop_path(project(attended.tokens))
        if self.bypass == "proj":  # Eq. 9 to the letter: W_o on all N tokens, the unselected enter gated
            passed = normed * selection.scale.unsqueeze(-1).to(normed.dtype)
            rows = attended.tokens.to(passed.dtype)
            mixed = passed.flatten(0, 2).index_copy(0, packing.token_index, rows).view_as(normed)
            return self.drop_path(project(mixed))
        return self.drop_path(scatter(project(attended.tokens), packing))

    def _feed_forward(self, x: Tensor, packing: Packing | None) -> Tensor:
        if packing is None or self.bypass != "skip_block":
            return x + self.drop_path(self.mlp(self.norm2(x)))
        rows = self.mlp(self.norm2(gather(x, packing)))
        return x + scatter(self.drop_path(rows, packing.image_id, x.shape[0]), packing)
