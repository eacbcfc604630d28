"""The gate and the statistics of a layer norm from one read of the tokens, without writing the normed tokens.

In an evaluation nobody needs all tokens normed but the gate; what works on the selected ones norms them as it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.ops.backend import choose_impl
from sptcore.ops.layer_norm.operator import read_gate

__all__ = ["Norm", "gate_logits", "gate_stats", "kernel_limit"]


@dataclass(frozen=True, eq=False)
class Norm:
    """A layer norm over the channels: `weight` and `bias` (C,), `eps` under the root."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, layer: nn.LayerNorm) -> Norm:
        """The norm of a layer, its weights without gradient."""
        return cls(layer.weight.detach(), layer.bias.detach(), layer.eps)

    def __call__(self, tokens: Tensor) -> Tensor:
        """`tokens` (..., C), normed, in the dtype torch's own layer returns."""
        return F.layer_norm(tokens, self.weight.shape, self.weight, self.bias, self.eps)


def gate_logits(normed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One logit a token, (..., C) -> (...), in fp32 (or fp64) whatever autocast or the dtype say.

    `weight` (1, C), `bias` (1,).
    """
    dtype = torch.promote_types(normed.dtype, torch.float32)
    with torch.autocast(normed.device.type, enabled=False):
        return F.linear(normed.to(dtype), weight.to(dtype), bias.to(dtype)).squeeze(-1)


def gate_stats(x: Tensor, norm: Norm, weight: Tensor, bias: Tensor, impl: str = "auto") -> tuple[Tensor, Tensor | None]:
    """The gate's logits of normed tokens, (B, H, W, C) -> (B, H, W) fp32, and mean and 1 / deviation of each token.

    The second, (2, B, H, W) fp32, is what the kernel finds on the way; None from the reference. No gradient. Raises
    ValueError for a kernel that cannot run, and under grad mode.
    """
    if torch.is_grad_enabled():
        raise ValueError("gate_stats has no gradient, call it under torch.no_grad()")
    if choose_impl("gate_stats", impl, x.device, limit=kernel_limit(x)) == "reference":
        return gate_logits(norm(x), weight, bias), None
    widened = x.device.type == "cuda" and torch.is_autocast_enabled("cuda")  # there the layer returns float32
    return read_gate(x, norm.weight, norm.bias, norm.eps, weight.detach(), bias.detach(), not widened)


def kernel_limit(x: Tensor) -> str | None:
    """What of tokens (..., C) the kernels cannot take, in words, or None."""
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it takes float32, float16 and bfloat16, not {x.dtype}"
    return None
