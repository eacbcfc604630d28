"""Selecting tokens: scores in, an exact 0/1 mask with a straight-through gradient out (Eq. 4 to 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from sptcore.ops.windows import window_order

NOISES = ("gumbel", "logistic", "none")


@dataclass(frozen=True, eq=False)
class Selection:
    """Which tokens of a grid a block works on, and what the gate said of all of them.

    `logits` (B, H, W) fp32: the combined score before the sigmoid (Eq. 4). `weight` (B, H, W): exactly 0 or 1, with the
    straight-through gradient where a gate decided. `valid` (B, H, W) bool: tokens of the image, not of batch padding.
    `own_logits`: the block's own gate before the finer scores were added. `gated`: whether the scores weigh the tokens
    (Eq. 5) and are to be supervised; false for ground-truth, norm-scored and all-token selection.
    """

    logits: Tensor
    weight: Tensor
    valid: Tensor
    own_logits: Tensor | None = None
    gated: bool = True
    threshold: float | None = None

    @property
    def mask(self) -> Tensor:
        """(B, H, W) bool: the selected tokens."""
        return self.weight.detach() > 0.5

    @property
    def gain(self) -> Tensor:
        """(B, H, W): the factor of each token, sigmoid(score) x weight (Eq. 5, 6), or weight alone without a gate."""
        return self.scale * self.weight if self.gated else self.weight

    @property
    def scale(self) -> Tensor:
        """(B, H, W): sigmoid(score) of every token, selected or not (Eq. 5); ones without a gate."""
        return torch.sigmoid(self.logits) if self.gated else torch.ones_like(self.logits)

    @property
    def counts(self) -> Tensor:
        """(B,) int64: selected tokens of each image."""
        return self.mask.flatten(1).sum(1)

    @property
    def ratio(self) -> Tensor:
        """Selected / valid tokens over the batch, a scalar tensor."""
        return self.mask.sum() / self.valid.sum()

    @property
    def own_mask(self) -> Tensor | None:
        """(B, H, W) bool: what the own gate alone would select without noise; None without a gate or a threshold."""
        if self.own_logits is None or self.threshold is None:
            return None
        return (self.own_logits > probability_to_logit(self.threshold)) & self.valid

    @property
    def own_ratio(self) -> Tensor | None:
        """Tokens of `own_mask` / valid tokens; None where that is None."""
        own = self.own_mask
        return None if own is None else own.sum() / self.valid.sum()


def probability_to_logit(probability: float) -> float:
    """log(p / (1 - p)), with -inf at 0 and +inf at 1. Raises ValueError outside [0, 1]."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"a probability lies in [0, 1], got {probability}")
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability) - math.log1p(-probability)


def gumbel_select(
    logits: Tensor,
    valid: Tensor,
    *,
    threshold: float = 0.01,
    tau: float = 1.0,
    noise: str = "gumbel",
    min_tokens_per_image: int = 0,
) -> Tensor:
    """The 0/1 weight (B, H, W) of each token: 1 where sigmoid((logits + noise) / tau) > threshold and `valid` (Eq. 6).

    `noise`: `gumbel` (one sample), `logistic` (difference of two) or `none`. The gradient is that of the noisy
    probability (straight-through). `min_tokens_per_image` best tokens of an image are selected whatever their score.
    Without noise and with tau = 1 the rule is logits > logit(threshold).
    """
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    noisy = logits if noise == "none" else logits + sample_noise(logits, noise)
    hard = (noisy > tau * probability_to_logit(threshold)) & valid
    if min_tokens_per_image:
        hard = hard | best_tokens(noisy, valid, torch.full_like(valid[:, 0, 0], min_tokens_per_image, dtype=torch.long))
    if not logits.requires_grad:
        return hard.to(logits.dtype)
    soft = torch.sigmoid(noisy / tau)
    return hard.to(soft.dtype) + (soft - soft.detach())


def sample_noise(like: Tensor, noise: str) -> Tensor:
    """Gumbel(0, 1) or standard logistic samples from the global generator of the device, shaped as `like`."""
    if noise == "gumbel":
        return torch.empty_like(like).exponential_().log_().neg_()
    if noise == "logistic":
        uniform = torch.rand_like(like)
        return torch.log(uniform) - torch.log1p(-uniform)
    raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")


def topk_select(scores: Tensor, valid: Tensor, *, ratio: float) -> Tensor:
    """The ceil(ratio * valid tokens) best tokens of each image, as a bool mask (B, H, W); ties by token index."""
    share = _share(ratio)  # exact: ceil(0.1 * 30) is 3, not the 4 of a rounded product
    tokens = valid.flatten(1).sum(1)
    counts = (tokens * share.numerator + share.denominator - 1).div(share.denominator, rounding_mode="floor")
    return best_tokens(scores, valid, counts)


def floor_share(tokens: Tensor, ratio: float) -> Tensor:
    """floor(ratio * tokens), exact for the decimal that `ratio` is written as: .3 of 10 are 3 (B,) int64."""
    share = Fraction(str(ratio))
    return (tokens * share.numerator).div(share.denominator, rounding_mode="floor")


def best_tokens(scores: Tensor, valid: Tensor, counts: Tensor) -> Tensor:
    """The `counts` (B,) best valid tokens of each image, as a bool mask (B, H, W); fewer where fewer are valid."""
    ranked = scores.detach().masked_fill(~valid, -math.inf).flatten(1)
    order = torch.argsort(ranked, dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < counts[:, None]).view_as(valid) & valid


def select_windows(activity: Tensor, valid: Tensor, *, ratio: float, window_size: int, shift_size: int) -> Tensor:
    """The tokens of the most active windows of each image, as a bool mask (B, H, W) of valid tokens.

    A window's score is the L2 norm of `activity` (B, H, W) over its cells, pad cells and tokens outside the image
    counting zero; of the windows with a token of the image, the floor(ratio * windows) best are selected, ties by
    window index. Windows are those of the grid shifted by `shift_size` as Swin shifts it (SparseViT, ALGORITHM 4.4).
    """
    share = _share(ratio)
    batch, height, width = activity.shape
    order = window_order(height, width, window_size=window_size, shift_size=shift_size, device=activity.device)
    shape = (batch, order.num_windows, window_size**2)
    cells = F.pad(activity.detach().masked_fill(~valid, 0.0).flatten(1), (0, 1))[:, order.cells].view(shape)
    inside = F.pad(valid.flatten(1), (0, 1))[:, order.cells].view(shape).any(-1)
    counts = (inside.sum(1) * share.numerator).div(share.denominator, rounding_mode="floor")
    best = best_tokens(torch.linalg.vector_norm(cells, dim=-1), inside, counts)
    return best.repeat_interleave(window_size**2, dim=1)[:, order.positions].view_as(valid) & valid


def repeatable_noise(like: Tensor) -> Tensor:
    """Numbers in [0, 1) shaped as `like` (B, H, W), in its dtype: a fixed hash of the token's row and column, whatever
    padding lies beside it.
    """
    rows, columns = (torch.arange(side, device=like.device) for side in like.shape[1:])
    mixed = (rows[:, None] * 2**16 + columns + 1) * 0x9E3779B1 % 2**32  # Knuth's multiplicative hash, then one round
    mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6D % 2**32
    mixed = (mixed ^ (mixed >> 12)) % 2**24  # what float32 holds exactly
    return (mixed.to(like.dtype) / 2**24).expand_as(like)


def _share(ratio: float) -> Fraction:
    """The ratio as it is written in decimals. Raises ValueError outside [0, 1]."""
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio lies in [0, 1], got {ratio}")
    return Fraction(str(ratio))


def coarsen(logits: Tensor, valid: Tensor) -> Tensor:
    """Scores of the next coarser grid, (B, H, W) -> (B, ceil(H/2), ceil(W/2)): the maximum of each 2 x 2 (Eq. 4).

    Tokens of batch padding count as -inf, so that they lend their score to nobody.
    """
    return F.max_pool2d(logits.masked_fill(~valid, -math.inf).unsqueeze(1), 2, ceil_mode=True).squeeze(1)
