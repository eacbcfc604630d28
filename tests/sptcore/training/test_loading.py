"""From samples to batches: padding, order, bad images, processes that die."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, ResourceError
from sptcore.labels.build import ensure_labels
from sptcore.labels.store import LabelStore
from sptcore.training.datasets import DrawnGeometry, ImageDataset, WholeImage
from sptcore.training.loading import BatchLoader, default_workers
from sptcore.training.sampler import Draw
from sptcore.training.targets import BoxTargets
from tests.support.miniatures import mini_coco
from tests.support.training import difference, tiny_config

STRIDES = (8, 16, 32)
TARGETS = BoxTargets({3: 1, 0: 2}, masks=True)
DRAWS = [[Draw(epoch, 0), Draw(epoch, 1)] for epoch in range(8)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return open_index(mini_coco(tmp_path_factory.mktemp("data") / "set"), "train")


@pytest.fixture(scope="module")
def data(index: DatasetIndex) -> ImageDataset:
    store = LabelStore(ensure_labels(index))
    return ImageDataset(index, WholeImage((40, 40)), labels=store, strides=STRIDES, targets=TARGETS)


def test_batches_are_padded_right_and_bottom_to_a_multiple_of_32(data: ImageDataset) -> None:
    (batch,) = BatchLoader(data).batches([[Draw(0, number) for number in range(3)]])
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.image_sizes.tolist() == [[30, 40], [27, 40], [40, 40]]
    assert batch.original_sizes.tolist() == [[30, 40], [20, 30], [16, 16]]
    assert batch.image_ids == [7, 2, 5]
    assert int(batch.images[0, :, 30:].sum()) == int(batch.images[0, :, :, 40:].sum()) == 0
    grids = batch.select_labels
    assert grids is not None
    assert {stride: tuple(grid.shape) for stride, grid in grids.items()} == {8: (3, 8, 8), 16: (3, 4, 4), 32: (3, 2, 2)}
    assert grids[8][0].any()
    assert not grids[8][0, 4:].any()


def test_other_processes_give_the_same_batches_in_the_same_order(index: DatasetIndex) -> None:
    config = tiny_config(Path(), crop_prob=1.0)
    data = ImageDataset(index, DrawnGeometry(config), targets=TARGETS)
    here = list(BatchLoader(data).batches(DRAWS))
    with BatchLoader(data, workers=2) as loader:
        there = list(loader.batches(DRAWS))
        again = list(loader.batches(DRAWS[:1]))
    for one, other in zip([*here, here[0]], [*there, *again], strict=True):
        assert difference(vars(one), vars(other)) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_whoever_loads_it(tmp_path: Path, workers: int) -> None:
    root = mini_coco(tmp_path / "set")
    index = open_index(root, "train")
    (root / "train2017" / "seven.png").write_bytes(b"<html>")
    data = ImageDataset(index, WholeImage((40, 40)))
    with BatchLoader(data, workers=workers) as loader, pytest.raises(DataError) as caught:
        list(loader.batches([[Draw(0, 1)], [Draw(0, 0)]]))
    assert str(caught.value.where).endswith("seven.png")


class Suicidal(ImageDataset):
    """Its third image kills the process that loads it."""

    def load(self, draw: Draw):  # type: ignore[no-untyped-def]
        if draw.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(draw)


def test_a_loading_process_that_dies_ends_the_job_and_names_what_it_worked_on(index: DatasetIndex) -> None:
    data = Suicidal(index, WholeImage((40, 40)))
    with BatchLoader(data, workers=1) as loader, pytest.raises(ResourceError) as caught:
        list(loader.batches([[Draw(0, 2)]]))
    assert "-five.png" in caught.value.message


def test_a_loading_process_that_dies_while_it_waits_is_told_too(data: ImageDataset) -> None:
    with BatchLoader(data, workers=1) as loader:
        batches, pool = loader.batches([[Draw(epoch, 0)] for epoch in range(20)]), loader._pool
        assert pool is not None
        next(batches)
        os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)  # it has loaded all that was asked for before that
        with pytest.raises(BrokenProcessPool):
            pool.submit(time.sleep, 60).result()
        with pytest.raises(ResourceError, match="none, it was waiting"):
            list(batches)


def test_leaving_early_leaves_no_process_behind(data: ImageDataset) -> None:
    import multiprocessing

    with BatchLoader(data, workers=2) as loader:
        next(loader.batches(DRAWS))
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


def test_small_images_are_loaded_here() -> None:
    assert default_workers((128, 128), 16) == 0
    assert default_workers((1333, 800), 16) == 8
    assert default_workers((1333, 800), 1) == 1
