"""PredictorLG: the local and global view of a token that tells whether it is worth the work (arXiv 2106.02034)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.models.layers import Linear


class PredictorLG(nn.Module):
    """Norm and Linear to C values a token, half of them its own, half averaged over the image; then three Linears."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.view = Linear(dim, dim)
        self.score = nn.Sequential(
            Linear(dim, dim // 2), nn.GELU(), Linear(dim // 2, dim // 4), nn.GELU(), Linear(dim // 4, 2)
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`x` (B, H, W, C), `valid` (B, H, W) bool -> log p(keep) - log p(drop) of each token, (B, H, W) fp32.

        The mean is over valid tokens, so that padding does not move it.
        """
        own, shared = F.gelu(self.view(self.norm(x))).split((x.shape[-1] // 2, x.shape[-1] - x.shape[-1] // 2), dim=-1)
        inside = valid.unsqueeze(-1).to(shared.dtype)
        mean = (shared * inside).sum((1, 2), keepdim=True) / inside.sum((1, 2), keepdim=True).clamp(min=1)
        keep, drop = self.score(torch.cat([own, mean.expand_as(shared)], dim=-1)).unbind(-1)
        dtype = torch.promote_types(x.dtype, torch.float32)
        return keep.to(dtype) - drop.to(dtype)
