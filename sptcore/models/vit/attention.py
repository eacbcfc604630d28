"""Global attention of a plain ViT: dense, under a policy (DynamicViT in training), or packed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.models.layers import Linear
from sptcore.models.recompute import in_pieces, pairs_at_once
from sptcore.ops.packed_attention import packed_attention
from sptcore.ops.packing import Packing


class GlobalAttention(nn.Module):
    """Every token of an image attends to all its tokens, the class token (the first) among them."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def heads(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> query, key and value, (B, h, T, d) each."""
        query, key, value = self.qkv(normed).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def join(self, mixed: Tensor) -> Tensor:
        """(B, h, T, d) -> (B, T, C), projected."""
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, normed: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); only tokens of `valid` (B, T) are attended to, None meaning all."""
        return self.join(attend(*self.heads(normed), valid))

    def under_policy(self, normed: Tensor, policy: Tensor, valid: Tensor | None, eps: float) -> Tensor:
        """(B, T, C) -> (B, T, C) by `policy_softmax`, all of it computed, a few queries at a time.

        The policy has a gradient where it is 0 too, so a mask of -inf for the fused attention would not do. The
        weights of a few queries are there at a time, and again in the backward pass (`in_pieces`).
        """
        query, key, value = self.heads(normed)
        tokens = torch.arange(key.shape[2], device=key.device)

        def attended(some: Tensor, own: Tensor) -> Tensor:
            scores = (some @ key.transpose(-2, -1)).to(policy.dtype) / math.sqrt(some.shape[-1])
            return policy_softmax(scores, policy, valid, eps, own).to(value.dtype) @ value

        step = max(1, pairs_at_once(key.device) // key[..., 0].numel())
        return self.join(in_pieces(attended, zip(query.split(step, dim=2), tokens.split(step), strict=True), dim=2))

    def packed(self, rows: Tensor, packing: Packing) -> Tensor:
        """Packed rows (P, C) -> (P, C); those of one image attend to each other."""
        query, key, value = self.qkv(rows).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        return self.proj(packed_attention(query, key, value, packing).flatten(1))


def attend(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the keys in `valid` (B, T); (B, h, T, d) each."""
    mask = None if valid is None else valid[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def class_attention(query: Tensor, key: Tensor, valid: Tensor | None) -> Tensor:
    """EViT's score: what the class token attends to, (B, h, T, d) twice -> (B, T - 1), mean over heads, float32."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = (query[:, :, :1] @ key.transpose(-2, -1)).to(dtype) / math.sqrt(query.shape[-1])
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None, :], -math.inf)
    return scores.softmax(-1)[:, :, 0, 1:].mean(1)


def policy_softmax(
    scores: Tensor, policy: Tensor, valid: Tensor | None, eps: float, own: Tensor | None = None
) -> Tensor:
    """DynamicViT's softmax in training: (B, h, Q, T) scores, 0/1 `policy` (B, T) with a gradient -> weights.

    exp(a - max) x (policy + (1 - policy) I), then (e + eps/N) / (sum + eps): a token that was dropped is attended to by
    itself alone. N counts the tokens in `valid` (B, T); `policy` must be 0 outside of them. `own` (Q,): which of the T
    tokens the queries are, None for all of them in order.
    """
    spread: Tensor | float = eps / scores.shape[-1]
    if valid is not None:
        seen = valid[:, None, None, :]
        scores = torch.where(seen, scores, scores.masked_fill(~seen, -math.inf).amax(-1, keepdim=True))
        spread = eps * seen.to(scores.dtype) / seen.sum(-1, keepdim=True)
    kept = policy[:, None, None, :]
    tokens = torch.arange(scores.shape[-1], device=scores.device)
    itself = (tokens == (tokens if own is None else own).unsqueeze(1)).to(scores.dtype)
    weights = (scores - scores.amax(-1, keepdim=True).detach()).exp() * (kept + (1 - kept) * itself)
    return (weights + spread) / (weights.sum(-1, keepdim=True) + eps)
