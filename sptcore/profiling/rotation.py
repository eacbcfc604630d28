"""Several inputs in turn, where one would stay in a GPU's second-level cache from one round to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_SETS, MOST_SETS = 4, 32
ASSUMED_CACHE = 60 * 2**20  # bytes, an H200's; where the driver does not tell


class Rotation:
    """Hands out `inputs` one after the other, again and again; every rival has a rotation of its own.

    Rivals that take turns thus see the same input in the same round. Raises ValueError without an input.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        if not inputs:
            raise ValueError("nothing to take turns")
        self.inputs = tuple(inputs)
        self._at = 0

    def next(self) -> Tensor:
        """The input whose turn it is."""
        one = self.inputs[self._at]
        self._at = (self._at + 1) % len(self.inputs)
        return one


def sets_needed(device: torch.device, size: int) -> int:
    """How many inputs of `size` bytes take turns on `device`: one on a CPU, on CUDA at least four.

    More of them where four would fit into the second-level cache together, as many as do not, up to MOST_SETS.
    """
    if device.type != "cuda":
        return 1
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or ASSUMED_CACHE
    return min(MOST_SETS, max(LEAST_SETS, cache // max(1, size) + 1))


def draw_inputs(shape: Sequence[int], device: torch.device, seed: int) -> tuple[Tensor, ...]:
    """Random images (B, 3, H, W) float32 on `device`, as many as `sets_needed`, the first everywhere the same."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(*shape, generator=generator)
    more = range(sets_needed(device, first.numel() * first.element_size()) - 1)
    return tuple(one.to(device) for one in (first, *(torch.randn(*shape, generator=generator) for _ in more)))
