"""Activation checkpointing: blocks that keep their input only and are computed again in the backward pass.

A training step of a backbone holds what lies between all layers of all blocks until the backward pass has used it;
recomputed, it holds the inputs of the blocks and the inside of one. The second computation draws the same random
numbers, so it selects the same tokens, and the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
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


def in_pieces(compute: Callable[..., Tensor], pieces: Iterable[tuple[Tensor, ...]], dim: int) -> Tensor:
    """`compute(*piece)` of every piece, one after the other, joined along `dim`.

    In a training step what lies inside `compute` is not kept, it is computed again in the backward pass: of a large
    matrix that is made piece by piece, one piece at a time is there. `compute` draws no random numbers.
    """
    done = []
    for piece in pieces:
        if torch.is_grad_enabled() and any(one.requires_grad for one in piece):
            done.append(checkpoint(compute, *piece, use_reentrant=False, preserve_rng_state=False))
        else:
            done.append(compute(*piece))
    return done[0] if len(done) == 1 else torch.cat(done, dim)


def pairs_at_once(device: torch.device) -> int:
    """Pairs of a query and a key, in all heads of all images, in one of the `in_pieces` of a training step.

    16 MiB of float32 on a CPU, whose C allocator maps and clears larger blocks anew each time; 128 MiB elsewhere.
    """
    return 1 << 22 if device.type == "cpu" else 1 << 25


def recompute_blocks(model: nn.Module, wanted: bool = True) -> int:
    """Let the blocks of `model` be recomputed in training steps, or no longer; returns how many blocks that are."""
    blocks = [one for one in model.modules() if isinstance(one, Recomputable)]
    for block in blocks:
        block.recomputes = wanted
    return len(blocks)
