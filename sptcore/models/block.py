"""One transformer block: norm, attention, residual, norm, feed-forward network, residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sptcore.models.attention.base import Attended, Attention
from sptcore.models.attention.spa import SelectPackAttention
from sptcore.models.layers import DropPath, Mlp
from sptcore.models.recompute import Recomputable
from sptcore.models.selectors import TokenContext
from sptcore.models.streaming import pieces, streams
from sptcore.ops.attend_selected import must_not_wait
from sptcore.ops.backend import is_traced
from sptcore.ops.packing import Packing, gather, scatter
from sptcore.ops.selection import Selection


@dataclass(frozen=True, eq=False)
class BlockOutput:
    """The tokens (B, H, W, C) after a block, and what it selected and packed (None in a dense block)."""

    tokens: Tensor
    selection: Selection | None = None
    packing: Packing | None = None


class Block(Recomputable):
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

    def compute(self, x: Tensor, context: TokenContext) -> BlockOutput:
        """`x` (B, H, W, C) -> BlockOutput with tokens of the same shape."""
        normed = self.norm1(x)
        selection = None if self.selector is None else self.selector(x, normed, context)
        if selection is not None and isinstance(self.attn, SelectPackAttention) and self._replays(x):
            x = self.attn.add_selected(x, normed, selection)
            return BlockOutput(x + self.mlp(self.norm2(x)), selection)
        if selection is not None and torch.compiler.is_dynamo_compiling():
            return BlockOutput(_outside_the_graph(self, x, normed, selection), selection)
        return self.mix(x, normed, selection)

    def mix(self, x: Tensor, normed: Tensor, selection: Selection | None) -> BlockOutput:
        """Attention and feed-forward network, exactly on the tokens of `selection`."""
        attended = self.attn(normed, selection)
        finish = self._finish_in_pieces if streams(self, x) else self._finish
        return BlockOutput(finish(x, normed, attended, selection), selection, attended.packing)

    def _replays(self, x: Tensor) -> bool:
        """Whether the number of tokens must show in no shape: an evaluation compiled, or captured in a CUDA graph."""
        plain = self.bypass == "identity" and not self.training and not torch.is_grad_enabled()
        return plain and (torch.compiler.is_compiling() or (not is_traced() and must_not_wait(x)))

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
            return self._finish_dense(x, attended.tokens)
        if self.bypass == "proj":
            out = x + self._project_all(attended.tokens, normed, packing, selection)
        else:
            out = _spare(normed, x).copy_(x)
            self._add_selected_(out.flatten(0, 2), attended.tokens, packing.token_index)
        if self.bypass != "skip_block":
            for rows in pieces(out):
                rows += self.mlp(self.norm2(rows))
        return out

    def _finish_dense(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Both branches of all tokens in one walk."""
        out = _spare(tokens, x)
        for rows, start, mixed in zip(pieces(out), pieces(x), pieces(tokens), strict=True):
            torch.add(start, self.attn.proj(mixed), out=rows)
            rows += self.mlp(self.norm2(rows))
        return out

    def _add_selected_(self, flat: Tensor, tokens: Tensor, token_index: Tensor) -> None:
        """Add the attention branch to the selected rows of (B*H*W, C), and the other branch where the rest skip it."""
        for index, mixed in zip(pieces(token_index), pieces(tokens), strict=True):
            rows = flat.index_select(0, index) + self.attn.proj(mixed)
            if self.bypass == "skip_block":
                rows = rows + self.mlp(self.norm2(rows))
            flat.index_copy_(0, index, rows)

    def _project_all(self, tokens: Tensor, normed: Tensor, packing: Packing, selection: Selection) -> Tensor:
        """Eq. 9 to the letter: W_o on all N tokens; the unselected enter as sigmoid(score) x LN(x)."""
        passed = normed * selection.scale.unsqueeze(-1).to(normed.dtype)
        mixed = passed.flatten(0, 2).index_copy(0, packing.token_index, tokens.to(passed.dtype))
        return self.attn.proj(mixed.view_as(normed))


def _mixed(block: Block, x: Tensor, normed: Tensor, selection: Selection) -> Tensor:
    return block.mix(x, normed, selection).tokens


_outside_the_graph: Callable[..., Tensor] = torch.compiler.disable(_mixed)  # type: ignore[assignment]
"""`mix` where torch.compile does not look: shapes that follow the selection would make it compile anew for each."""


def _spare(used: Tensor, like: Tensor) -> Tensor:
    """Memory for a result shaped as `like`: that of a tensor no longer needed, unless its dtype is another."""
    return used.view_as(like) if used.dtype == like.dtype else torch.empty_like(like)
