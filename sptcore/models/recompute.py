"""Activation checkpointing: blocks that keep their input only and are computed again in the backward pass.

A training step of a backbone holds what lies between all layers of all blocks until the backward pass has used it;
recomputed, it holds the inputs of the blocks and the inside of one. The second computation draws the same random
numbers, so it selects the same tokens, and the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A block whose result follows from arguments, weights and random numbers alone. A kind of it adds `compute`."""

    recomputes = False
    compute: Callable[..., Any]

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """`compute`, and with `recomputes` once more in the backward pass of a training step."""
        if self.recomputes and self.training and torch.is_grad_enabled():
            return checkpoint(self.compute, *arguments, use_reentrant=False, **named)
        return self.compute(*arguments, **named)


def recompute_blocks(model: nn.Module, wanted: bool = True) -> int:
    """Let the blocks of `model` be recomputed in training steps, or no longer; returns how many blocks that are."""
    blocks = [one for one in model.modules() if isinstance(one, Recomputable)]
    for block in blocks:
        block.recomputes = wanted
    return len(blocks)
