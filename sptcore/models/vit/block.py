"""The block of a plain ViT, and its two halves for those who do something in between."""

from __future__ import annotations

from torch import Tensor, nn

from sptcore.models.layers import DropPath, Mlp
from sptcore.models.recompute import Recomputable
from sptcore.models.vit.attention import GlobalAttention
from sptcore.models.vit.config import ViTConfig
from sptcore.ops.packing import Packing, gather, scatter

NORM_EPS = 1e-6  # torchvision's, timm's and DeiT's


class ViTBlock(Recomputable):
    """Norm, attention, residual, norm, feed-forward network, residual; the class token comes first."""

    def __init__(self, config: ViTConfig, index: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.attn = GlobalAttention(config.dim, config.heads)
        self.drop_path = DropPath(config.drop_path * index / max(1, config.depth - 1))
        self.norm2 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.mlp = Mlp(config.dim, int(config.dim * config.mlp_ratio))

    def compute(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); only tokens of `valid` (B, T) are attended to."""
        return self.feed(x + self.drop_path(self.attn(self.norm1(x), valid)))

    def under_policy(self, x: Tensor, policy: Tensor, valid: Tensor | None, eps: float) -> Tensor:
        """As `forward`, all tokens computed, those that `policy` (B, T) drops attended to by themselves alone."""
        return self.feed(x + self.drop_path(self.attn.under_policy(self.norm1(x), policy, valid, eps)))

    def selected(self, x: Tensor, packing: Packing) -> Tensor:
        """As `forward`, attention among the tokens of `packing` alone, the feed-forward network on all (Fig. 4)."""
        rows = self.attn.packed(self.norm1(gather(x.unsqueeze(1), packing)), packing)
        branch = scatter(self.drop_path(rows, packing.image_id, x.shape[0]), packing)
        return self.feed(x + branch.squeeze(1))

    def feed(self, x: Tensor) -> Tensor:
        """The second half of the block."""
        return x + self.drop_path(self.mlp(self.norm2(x)))
