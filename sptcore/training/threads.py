"""How many threads a job on the CPU works with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

SMALL_IMAGE = 300 * 300
"""Pixels up to which neither more threads nor loading processes pay: their hand-overs cost more than the work."""


@contextmanager
def fitting_threads(res: Sequence[int], device: torch.device) -> Iterator[None]:
    """One thread for small images on a CPU, torch's own number otherwise or when `OMP_NUM_THREADS` is set.

    On a machine that is busy with other things, two threads were five times slower than one on 128 x 128 pixels.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and res[0] * res[1] <= SMALL_IMAGE and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
