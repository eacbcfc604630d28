"""From samples to batches, loaded in this process or by others a few batches ahead."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import torch

from sptcore.data.workers import end_with_parent, sigint_held_back
from sptcore.errors import ResourceError
from sptcore.tasks.base import Batch
from sptcore.training.datasets import Grids, ImageDataset, Sample
from sptcore.training.sampler import Draw
from sptcore.training.threads import SMALL_IMAGE

_DIVISOR = 32
_AHEAD = 3  # batches a process may have waiting
_dataset: ImageDataset | None = None  # in a loading process only, which has no other way to be handed it once


@dataclass(frozen=True, eq=False)
class ArrayBatch:
    """A batch before it becomes tensors: what a loading process sends."""

    images: np.ndarray
    image_sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    image_ids: list[int]
    targets: list[dict[str, np.ndarray]]
    grids: Grids | None

    def tensors(self) -> Batch:
        """The same as a Batch, without copying."""
        grids = None if self.grids is None else {stride: torch.from_numpy(grid) for stride, grid in self.grids.items()}
        return Batch(
            images=torch.from_numpy(self.images),
            image_sizes=torch.tensor(self.image_sizes),
            original_sizes=torch.tensor(self.original_sizes),
            image_ids=self.image_ids,
            targets=[{name: torch.from_numpy(array) for name, array in target.items()} for target in self.targets],
            select_labels=grids,
        )


def collate(samples: Sequence[Sample]) -> ArrayBatch:
    """Pad the samples right and bottom to one size, a multiple of 32, images and label grids alike."""
    shapes = [sample.image.shape for sample in samples]
    height, width = padded_size(max(shape[0] for shape in shapes), max(shape[1] for shape in shapes))
    images = np.zeros((len(samples), 3, height, width), dtype=np.uint8)
    for row, sample in zip(images, samples, strict=True):
        row[:, : sample.image.shape[0], : sample.image.shape[1]] = sample.image.transpose(2, 0, 1)
    return ArrayBatch(
        images=images,
        image_sizes=[(shape[0], shape[1]) for shape in shapes],
        original_sizes=[sample.original_size for sample in samples],
        image_ids=[sample.image_id for sample in samples],
        targets=[sample.target for sample in samples],
        grids=_stack_grids([sample.grids for sample in samples], height, width),
    )


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The frame of an image alone in its batch: both sides up to a multiple of 32."""
    return _DIVISOR * math.ceil(height / _DIVISOR), _DIVISOR * math.ceil(width / _DIVISOR)


def _stack_grids(grids: Sequence[Grids | None], height: int, width: int) -> Grids | None:
    if grids[0] is None:
        return None
    stacked = {}
    for stride in grids[0]:
        stacked[stride] = np.zeros((len(grids), height // stride, width // stride), dtype=bool)
        for row, grid in zip(stacked[stride], grids, strict=True):
            assert grid is not None
            row[: grid[stride].shape[0], : grid[stride].shape[1]] = grid[stride]
    return stacked


def default_workers(res: tuple[int, int], processors: int) -> int:
    """Loading processes when nobody says: none for small images, where they cost more than they save."""
    return 0 if res[0] * res[1] <= SMALL_IMAGE else min(8, max(1, processors // 2))


class BatchLoader:
    """Batches of a data set, in order; a context manager, since it may hold processes.

    The processes are forked: they share the annotations instead of holding copies. They end with their parent.
    """

    def __init__(self, dataset: ImageDataset, *, workers: int = 0, pin: bool = False) -> None:
        self.dataset = dataset
        self.workers = workers
        self.pin = pin
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> BatchLoader:
        if self.workers:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.workers, context, initializer=_begin, initargs=(self.dataset,))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        self._pool = None

    def batches(self, draws: Iterable[list[Draw]]) -> Iterator[Batch]:
        """The batches of `draws`. Raises DataError for an unusable image, ResourceError when a process dies."""
        loaded = map(self._load_here, draws) if self._pool is None else self._ahead(self._pool, draws)
        for arrays in loaded:
            batch = arrays.tensors()
            yield batch.pin_memory() if self.pin else batch

    def _load_here(self, draws: list[Draw]) -> ArrayBatch:
        return collate([self.dataset.load(draw) for draw in draws])

    def _ahead(self, pool: ProcessPoolExecutor, draws: Iterable[list[Draw]]) -> Iterator[ArrayBatch]:
        waiting: deque[tuple[list[Draw], Future[ArrayBatch]]] = deque()
        source = iter(draws)
        try:
            while True:
                for batch in source:
                    with sigint_held_back():
                        waiting.append((batch, pool.submit(_load, batch)))
                    if len(waiting) >= _AHEAD * self.workers:
                        break
                if not waiting:
                    return
                yield waiting[0][1].result()
                waiting.popleft()
        except BrokenProcessPool as error:
            unfinished = [batch for batch, future in waiting if not future.done() or future.exception()]
            names = self._names(unfinished[: self.workers])
            raise ResourceError(
                f"a loading process died; under work were {names or 'none, it was waiting'}",
                hint="use fewer --workers, or 0; the system may have run out of memory",
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()

    def _names(self, batches: list[list[Draw]]) -> str:
        return ", ".join(self.dataset.records[draw.index].file_name for batch in batches for draw in batch)


def _begin(dataset: ImageDataset) -> None:
    """Start of a loading process: signals left to the parent, one thread, ready to load, ending with the parent."""
    import signal
    import threading

    import cv2

    global _dataset
    _dataset = dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    cv2.setNumThreads(0)
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=end_with_parent, daemon=True).start()


def _load(draws: list[Draw]) -> ArrayBatch:
    assert _dataset is not None
    return collate([_dataset.load(draw) for draw in draws])
