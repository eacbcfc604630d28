"""Which image comes when: a seeded order that can start anywhere, and the seeds of everything drawn at random.

Nothing random in training has a memory. The order of an epoch follows from (seed, epoch), an image's augmentation from
(seed, epoch, image index), the noise of a forward pass from (seed, its number in the whole run): a run that was killed
and starts again at step k draws what the uninterrupted run drew, and N processes draw what one draws that accumulates N
times as many forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_ORDER, _IMAGE, _NOISE = 1, 2, 3


@dataclass(frozen=True)
class Draw:
    """One image of one epoch: what a data set needs to load it and to draw its augmentation."""

    epoch: int
    index: int


@dataclass(frozen=True)
class EpochSampler:
    """The batches of this rank, epoch by epoch.

    `length` images are dealt in batches of `batch_size` to each of `world` ranks. The last batch is filled up from the
    start of the epoch's order, so that every rank takes the same number of full steps.
    """

    length: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.length < 1 or self.batch_size < 1 or not 0 <= self.rank < self.world:
            raise ValueError(f"no batches to deal: {self}")

    @property
    def steps_per_epoch(self) -> int:
        """Batches a rank sees in an epoch."""
        return math.ceil(self.length / (self.batch_size * self.world))

    def order(self, epoch: int) -> np.ndarray:
        """The image indexes of an epoch, (length,) int64, the same on every rank."""
        if not self.shuffle:
            return np.arange(self.length)
        return np.random.default_rng((_ORDER, self.seed, epoch)).permutation(self.length)

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[list[Draw]]:
        """This rank's batches of `epoch`, without the first `skip`."""
        order = self.order(epoch)
        stride = self.batch_size * self.world
        for step in range(skip, self.steps_per_epoch):
            first = step * stride + self.rank * self.batch_size
            picked = order.take(range(first, first + self.batch_size), mode="wrap")
            yield [Draw(epoch, int(index)) for index in picked]


def image_generator(seed: int, draw: Draw) -> np.random.Generator:
    """The generator of one image's augmentation in one epoch."""
    return np.random.default_rng((_IMAGE, seed, draw.epoch, draw.index))


def step_seed(seed: int, number: int) -> int:
    """The seed of torch's generators for forward pass `number` of a run: gate noise, drop path, sampling of anchors and
    proposals. All processes' passes are counted: (step * processes + rank) * accum + pass of the step.
    """
    state = np.random.SeedSequence((_NOISE, seed, number, 0)).generate_state(2, np.uint32)
    return int(state[0]) << 31 | int(state[1]) >> 1
