"""Random numbers that are the same on every machine, whatever the version of NumPy: SplitMix64 on 64-bit integers.

Source: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Draws:
    """A stream of integers that depends only on `key`."""

    def __init__(self, *key: int) -> None:
        self._state = 0
        for part in key:
            self._state = _mix((self._state + _STEP + part) & _MASK)

    def _next(self) -> int:
        self._state = (self._state + _STEP) & _MASK
        return _mix(self._state)

    def integer(self, low: int, high: int) -> int:
        """An integer in low <= n < high."""
        return low + ((self._next() >> 32) * (high - low) >> 32)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[self.integer(0, len(choices))]

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.integer(0, 100) < percent

    def field(self, shape: tuple[int, ...], bound: int) -> np.ndarray:
        """An int64 array of integers 0 <= n < bound."""
        count = int(np.prod(shape))
        value = np.uint64(self._next()) + np.arange(count, dtype=np.uint64) * np.uint64(_STEP)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = (value ^ (value >> np.uint64(31))) >> np.uint64(32)
        return ((value * np.uint64(bound)) >> np.uint64(32)).astype(np.int64).reshape(shape)
