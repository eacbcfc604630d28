"""Selectors: which tokens a block attends with. One table, SELECTORS; each turns a token grid into a Selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sptcore.models.layers import Gate
from sptcore.models.predictor import PredictorLG
from sptcore.ops.selection import (
    Selection,
    best_tokens,
    floor_share,
    gumbel_select,
    repeatable_noise,
    select_windows,
    topk_select,
)

if TYPE_CHECKING:
    from sptcore.models.config import BackboneConfig


@dataclass(frozen=True, eq=False)
class TokenContext:
    """What a block is told beside its tokens.

    `valid` (B, H, W) bool: tokens of the image, not of batch padding. `prior` (B, H, W): the finer stage's logits,
    max-pooled to this grid, or None. `select_label` (B, H, W) bool: the object tokens, for ground-truth selection.
    `memory`: what a block leaves for later blocks of its stage in the same pass; each stage begins with none.
    """

    valid: Tensor
    prior: Tensor | None = None
    select_label: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)


class Selector(nn.Module):
    """Built as `cls(dim, config, shift_size)`; called as `selector(x, normed, context) -> Selection` with the block's
    input and its norm, (B, H, W, C) each.

    A kind of it adds its `gate` where it has one, and `choose(x, own, context)`: the Selection once the gate has given
    the tokens its logits `own` (B, H, W), None without a gate.
    """

    choose: Callable[..., Selection]

    def __init__(self, dim: int, config: BackboneConfig, shift_size: int = 0) -> None:
        super().__init__()
        self.gate: Gate | None = None

    def forward(self, x: Tensor, normed: Tensor, context: TokenContext) -> Selection:
        return self.choose(x, None if self.gate is None else self.gate(normed), context)


class GateSelector(Selector):
    """The selection of the paper: gumbel-sigmoid of the gate's score above a small probability (Eq. 4 to 6)."""

    def __init__(self, dim: int, config: BackboneConfig, shift_size: int = 0) -> None:
        super().__init__(dim, config)
        self.gate = Gate(dim, config.gate_bias_init)
        self.threshold = config.select_threshold
        self.tau = config.tau
        self.noise = config.noise
        self.min_tokens = config.min_tokens_per_image

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        assert own is not None, "this selector has a gate"
        logits = raised(own, context.prior)
        weight = gumbel_select(
            logits,
            context.valid,
            threshold=self.threshold,
            tau=self.tau if self.training else 1.0,
            noise=self.noise if self.training else "none",
            min_tokens_per_image=self.min_tokens,
        )
        return Selection(logits, weight, context.valid, own, threshold=self.threshold)


class GroundTruthSelector(Selector):
    """The tokens on objects, from the labels, in training and evaluation: an upper bound without any gate."""

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        if context.select_label is None:
            raise ValueError("ground-truth selection needs select_labels for the stride of every block that selects")
        weight = (context.select_label & context.valid).to(_score_dtype(x))
        return Selection(weight * 2 - 1, weight, context.valid, gated=False)


class TopkSelector(Selector):
    """A fixed share of each image's tokens: the best by the gate, or by the norm of the block's input (no gate)."""

    def __init__(self, dim: int, config: BackboneConfig, shift_size: int = 0) -> None:
        super().__init__(dim, config)
        self.gate = Gate(dim, config.gate_bias_init) if config.topk_score == "gate" else None
        self.ratio = config.select_ratio

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        logits = _norms(x) if own is None else raised(own, context.prior)
        weight = topk_select(logits, context.valid, ratio=self.ratio).to(logits.dtype)
        return Selection(logits, weight, context.valid, own, gated=own is not None)


class TopkWindowsSelector(Selector):
    """A fixed share of each image's windows, those of the largest input (SparseViT; "uniform top-50" of Table 7).

    The scores are read once a stage, on the input of its first selecting block, and from them the windows of the plain
    and of the shifted partition; later blocks of the stage use the same.
    """

    def __init__(self, dim: int, config: BackboneConfig, shift_size: int = 0) -> None:
        super().__init__(dim, config)
        self.ratio = config.select_ratio
        self.window_size = config.window_size
        self.shift_size = shift_size

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        memory, mine = context.memory, f"windows shifted by {self.shift_size}"
        if "activity" not in memory:
            memory["activity"] = x.detach().to(_score_dtype(x)).abs().mean(-1)
        activity = memory["activity"]
        if mine not in memory:
            memory[mine] = select_windows(
                activity, context.valid, ratio=self.ratio, window_size=self.window_size, shift_size=self.shift_size
            )
        return Selection(activity, memory[mine].to(activity.dtype), context.valid, gated=False)


class RandomSelector(Selector):
    """A fixed share of each image's tokens whatever is in them, the control of every other selection.

    Drawn from torch's generator in training; in evaluation by a fixed hash of the token's place, so that it repeats.
    """

    def __init__(self, dim: int, config: BackboneConfig, shift_size: int = 0) -> None:
        super().__init__(dim, config)
        self.ratio = config.select_ratio

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        like = x.new_empty(x.shape[:3], dtype=_score_dtype(x))
        scores = torch.rand_like(like) if self.training else repeatable_noise(like)
        weight = topk_select(scores, context.valid, ratio=self.ratio).to(scores.dtype)
        return Selection(scores, weight, context.valid, gated=False)


class PredictorSelector(Selector):
    """The tokens a small network on the block's input deems worth the full feed-forward network (DynamicSwin).

    In training each token's lot is drawn, the straight-through Gumbel-softmax over "keep" and "drop"; in evaluation the
    floor(select_ratio x tokens) likeliest of each image are kept. Decisions are not cumulative.
    """

    def __init__(self, dim: int, config: BackboneConfig, shift_size: int = 0) -> None:
        super().__init__(dim, config)
        self.predictor = PredictorLG(dim)
        self.ratio = config.select_ratio

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        logits = self.predictor(x, context.valid)
        if self.training:  # argmax of two logits with Gumbel noise each: their difference with logistic noise, above 0
            weight = gumbel_select(logits, context.valid, threshold=0.5, noise="logistic")
        else:
            counts = floor_share(context.valid.flatten(1).sum(1), self.ratio)
            weight = best_tokens(logits, context.valid, counts).to(logits.dtype)
        return Selection(logits, weight, context.valid, gated=False)


class AllSelector(Selector):
    """Every valid token, ungated: the dense limit of packing."""

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        weight = context.valid.to(_score_dtype(x))
        return Selection(torch.zeros_like(weight), weight, context.valid, gated=False)


def raised(own: Tensor, prior: Tensor | None) -> Tensor:
    """A block's own logits raised to those of the finer stage, where these are higher (Eq. 4)."""
    return own if prior is None else torch.maximum(own, prior.to(own.dtype))


def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.detach().to(_score_dtype(x)), dim=-1)


def _score_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


SELECTORS: dict[str, type[Selector]] = {
    "gate": GateSelector,
    "ground_truth": GroundTruthSelector,
    "topk": TopkSelector,
    "topk_windows": TopkWindowsSelector,
    "random": RandomSelector,
    "predictor": PredictorSelector,
    "all": AllSelector,
}

FIXED_RATIO = ("topk", "topk_windows", "random")
"""Selectors of a stated share, `select_ratio`, whatever is in the image."""


def bound_note(selector: str | None) -> str:
    """What has to stand beside every result of a model that selects by labels; empty for all others."""
    return "upper bound: selects by labels" if selector == "ground_truth" else ""
