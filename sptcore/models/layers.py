"""The layers around attention: patch embedding, patch merging, feed-forward network, drop path."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.ops.backend import is_traced
from sptcore.ops.layer_norm import gate_logits
from sptcore.ops.linear import linear


class Linear(nn.Linear):
    """torch's linear layer, faster on some CPUs (`sptcore.ops.linear`)."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class PatchEmbed(nn.Module):
    """Cut the image into 4 x 4 patches and embed each: (B, 3, H, W) -> (B, ceil(H/4), ceil(W/4), C).

    An image whose size is not a multiple of 4 is padded with zeros on the right and at the bottom.
    """

    patch_size = 4

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, self.patch_size, stride=self.patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Join 2 x 2 tokens: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C); odd sizes are padded with zeros.

    The four tokens follow each other as Swin has them: upper left, lower left, upper right, lower right.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        quads = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, 2, W/2, 2, C)
        return self.reduction(self.norm(quads.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class Mlp(nn.Module):
    """The feed-forward network of a block: Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        if torch.is_grad_enabled() or is_traced():
            return self.fc2(F.gelu(hidden))
        return self.fc2(torch.ops.aten.gelu_(hidden))


class DropPath(nn.Module):
    """Drop a residual branch for whole images at `rate` in training, and scale the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, image_id: Tensor | None = None, batch: int | None = None) -> Tensor:
        """`branch` (B, ...), or (P, C) packed rows with the `image_id` (P,) of each in a `batch` of images."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = (
            branch.new_empty(branch.shape[0] if batch is None else batch).bernoulli_(1 - self.rate).div_(1 - self.rate)
        )
        keep = keep if image_id is None else keep[image_id]
        return branch * keep.view(-1, *[1] * (branch.dim() - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Gate(nn.Linear):
    """The gating layer: one logit a token, (..., C) -> (...), in fp32 (or fp64) whatever autocast or the dtype say."""

    def __init__(self, dim: int, bias_init: float = 0.0) -> None:
        super().__init__(dim, 1)
        self.bias_init = bias_init

    def forward(self, input: Tensor) -> Tensor:
        return gate_logits(input, self.weight, self.bias)


def init_weights(module: nn.Module) -> None:
    """Swin's start of a linear layer: truncated normal weights of .02, bias 0 (for a gate: its own)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.constant_(module.bias, getattr(module, "bias_init", 0.0))
