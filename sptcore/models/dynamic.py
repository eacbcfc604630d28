"""DynamicSwin's blocks: attention for all tokens, the full feed-forward network only for those worth it.

Spatially dynamic networks of arXiv 2207.01580. A predictor in some blocks decides; its decision stands until the next
one. In training every token goes both ways and the two results travel on side by side; that pair, the streams, lies in
the memory a stage's blocks share (`TokenContext.memory`), so that nothing else knows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sptcore.models.block import Block, BlockOutput
from sptcore.models.layers import Linear
from sptcore.models.selectors import TokenContext
from sptcore.ops.attend_selected import must_not_wait
from sptcore.ops.backend import is_traced
from sptcore.ops.selection import Selection

RATIO_LOSS_WEIGHT = 10.0


class FastMlp(nn.Module):
    """The short way of a token: Norm and one Linear, no activation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x))


class DynamicBlock(Block):
    """A dense block whose feed-forward network is `mlp` for selected tokens and `fast` for all others.

    With a selector it makes the decision, without one it keeps to that of the block before it in the stage.
    """

    def __init__(self, dim: int, **parts: Any) -> None:
        super().__init__(dim, **parts)
        self.fast = FastMlp(dim)

    def forward(self, x: Tensor, context: TokenContext) -> BlockOutput:
        """`x` (B, H, W, C) -> BlockOutput; its selection is None where the block did not decide itself."""
        memory = context.memory
        if not self.training:
            selection = self._decide(x, context.valid)
            memory["selected"] = memory["selected"] if selection is None else selection.weight
            return BlockOutput(self._one_way(x, memory["selected"] > 0.5), selection)
        before = (memory.get("slow", x), memory.get("fast", x), memory.get("selected"))
        slow, fast, selected, selection = super().forward(x, *before, context.valid)
        memory["slow"], memory["fast"], memory["selected"] = slow, fast, selected
        return BlockOutput(_mix(slow, fast, selected), selection)

    def compute(
        self, x: Tensor, slow: Tensor, fast: Tensor, selected: Tensor | None, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Selection | None]:
        """Training: both streams after this block, the mask in force (B, H, W) with its gradient, and who set it here.

        A token that the mask does not give to a stream enters that stream's network as it stood before the attention.
        """
        selection = self._decide(x, valid)
        selected = selected if selection is None else selection.weight
        assert selected is not None, "the first dynamic block of a stage has a predictor"
        x = self._attend(_mix(slow, fast, selected))
        slow, fast = _mix(x, slow, selected), _mix(fast, x, selected)
        slow = x + self.drop_path(self.mlp(self.norm2(slow)))
        return slow, x + self.drop_path(self.fast(fast)), selected, selection

    def _decide(self, x: Tensor, valid: Tensor) -> Selection | None:
        return None if self.selector is None else self.selector(x, x, TokenContext(valid))

    def _one_way(self, x: Tensor, mask: Tensor) -> Tensor:
        """Evaluation: each token takes its own way only, except where the counts must show in no shape."""
        x = self._attend(x)
        if is_traced() or must_not_wait(x):
            return x + torch.where(mask.unsqueeze(-1), self.mlp(self.norm2(x)), self.fast(x))
        flat, chosen = x.flatten(0, 2), mask.flatten()
        slow, fast = (index.flatten() for index in (chosen.nonzero(), (~chosen).nonzero()))
        full, short = flat.index_select(0, slow), flat.index_select(0, fast)
        full, short = full + self.mlp(self.norm2(full)), short + self.fast(short)
        out = torch.empty_like(flat).index_copy(0, slow, full.to(flat.dtype)).index_copy(0, fast, short.to(flat.dtype))
        return out.view_as(x)

    def _attend(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.attn.proj(self.attn(self.norm1(x), None).tokens))


def _mix(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """`one` where the weight (B, H, W) is 1, `other` where it is 0; the weight learns from their difference."""
    weight = weight.unsqueeze(-1).to(one.dtype)
    return one * weight + other * (1 - weight)


def ratio_loss(selections: Sequence[Selection], ratios: Sequence[float]) -> Tensor:
    """10 x the mean over decisions and images of (selected share - wanted share) squared, in float32, a scalar.

    The share is of each image's valid tokens.
    """
    gaps = []
    for selection, ratio in zip(selections, ratios, strict=True):
        tokens = selection.valid.flatten(1).sum(1).clamp(min=1)
        gaps.append((selection.weight.float().flatten(1).sum(1) / tokens - ratio).square().mean())
    return RATIO_LOSS_WEIGHT * torch.stack(gaps).mean()
