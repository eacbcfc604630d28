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
from sptcore.models.selectors import Selector, TokenContext
from sptcore.models.streaming import pieces, streams
from sptcore.ops.attend_selected import FeedForward, impl_in_use, must_not_wait
from sptcore.ops.backend import is_traced
from sptcore.ops.layer_norm import Norm, gate_stats
from sptcore.ops.packing import Packing, gather, gather_rows, scatter, scatter_rows_
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
        if isinstance(self.attn, SelectPackAttention) and self._replays(x):
            return self._hide_counts(x, context, self.attn)
        normed = self.norm1(x)
        selection = None if self.selector is None else self.selector(x, normed, context)
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
        plain = not self.training and not torch.is_grad_enabled()
        return plain and (torch.compiler.is_compiling() or (not is_traced() and must_not_wait(x)))

    def _hide_counts(self, x: Tensor, context: TokenContext, attn: SelectPackAttention) -> BlockOutput:
        """The same in operators that hide how many tokens were selected, and that norm tokens where they read them."""
        norm = Norm.of(self.norm1)
        selection, stats = self._select(x, context, norm)
        if self.bypass == "skip_block":
            fc1, fc2 = self.mlp.fc1, self.mlp.fc2
            second = FeedForward(Norm.of(self.norm2), fc1.weight, fc1.bias, fc2.weight, fc2.bias)
            return BlockOutput(attn.add_selected(x, selection, attn.branch(norm, second), stats), selection)
        x = attn.add_selected(x, selection, attn.branch(norm, passes=self.bypass == "proj"), stats)
        return BlockOutput(x + self.mlp(self.norm2(x)), selection)

    def _select(self, x: Tensor, context: TokenContext, norm: Norm) -> tuple[Selection, Tensor | None]:
        """The selection, and mean and 1 / deviation of all tokens where the gate's kernel has found them."""
        if not isinstance(self.selector, Selector):  # one that stands in for it and wants the normed tokens
            assert self.selector is not None
            return self.selector(x, self.norm1(x), context), None
        gate = self.selector.gate
        own, stats = (None, None) if gate is None else gate_stats(x, norm, gate.weight, gate.bias, impl_in_use())
        return self.selector.choose(x, own, context), stats

    def _finish(self, x: Tensor, normed: Tensor, attended: Attended, selection: Selection | None) -> Tensor:
        """Both residual branches."""
        packing = attended.packing
        if packing is None or selection is None:
            x = x + self.drop_path(self.attn.proj(attended.tokens))
        elif self.bypass == "proj":
            x = x + self.drop_path(self._project_all(attended, normed, selection))
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
            out = x + self._project_all(attended, normed, selection)
        else:
            out = x.clone(memory_format=torch.contiguous_format)
            self._add_selected_(out.view(-1, x.shape[-1]), attended)
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

    def _add_selected_(self, flat: Tensor, attended: Attended) -> None:
        """Add the attention branch to the selected rows of (B*H*W, C), and the other branch where the rest skip it."""
        for index, mixed in attended.rows():
            rows = gather_rows(flat, index) + self.attn.proj(mixed)
            if self.bypass == "skip_block":
                rows = rows + self.mlp(self.norm2(rows))
            scatter_rows_(flat, index, rows)

    def _project_all(self, attended: Attended, normed: Tensor, selection: Selection) -> Tensor:
        """Eq. 9 to the letter: W_o on all N tokens; the unselected enter as sigmoid(score) x LN(x)."""
        assert attended.packing is not None
        passed = normed * selection.scale.unsqueeze(-1).to(normed.dtype)
        tokens = attended.tokens.to(passed.dtype)
        mixed = passed.flatten(0, 2).index_copy(0, attended.packing.token_index, tokens)
        return self.attn.proj(mixed.view_as(normed))


def _mixed(block: Block, x: Tensor, normed: Tensor, selection: Selection) -> Tensor:
    return block.mix(x, normed, selection).tokens


_outside_the_graph: Callable[..., Tensor] = torch.compiler.disable(_mixed)  # type: ignore[assignment]
"""`mix` where torch.compile does not look: shapes that follow the selection would make it compile anew for each."""


def _spare(used: Tensor, like: Tensor) -> Tensor:
    """Memory for a result shaped as `like`: that of a tensor no longer needed, unless its dtype is another."""
    return used.view_as(like) if used.dtype == like.dtype else torch.empty_like(like)
