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

    def compute(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        *,
        packing: Packing | None = None,
        policy: Tensor | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); only tokens of `valid` (B, T) are attended to.

        `packing`: attention is among its tokens alone, the feed-forward network for all (Fig. 4). `policy` (B, T), with
        `eps`: every token is computed, those that it drops are attended to by themselves alone (`policy_softmax`).
        """
        if packing is not None:
            return self.feed(x + self._packed(x, packing))
        normed = self.norm1(x)
        branch = self.attn(normed, valid) if policy is None else self.attn.under_policy(normed, policy, valid, eps)
        return self.feed(x + self.drop_path(branch))

    def _packed(self, x: Tensor, packing: Packing) -> Tensor:
        rows = self.attn.packed(self.norm1(gather(x.unsqueeze(1), packing)), packing)
        return scatter(self.drop_path(rows, packing.image_id, x.shape[0]), packing).squeeze(1)

    def feed(self, x: Tensor) -> Tensor:
        """The second half of the block."""
        return x + self.drop_path(self.mlp(self.norm2(x)))
