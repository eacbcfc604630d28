"""From records to samples: frames, targets, labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sptcore.data.locate import open_index
from sptcore.data.rasterize import object_mask
from sptcore.data.records import DatasetIndex
from sptcore.labels.build import ensure_labels
from sptcore.labels.geometry import Geometry
from sptcore.labels.pyramid import levels
from sptcore.labels.store import LabelStore
from sptcore.training.datasets import DrawnGeometry, ImageDataset, PackedRecords, WholeImage
from sptcore.training.sampler import Draw
from sptcore.training.targets import BoxTargets
from tests.support.miniatures import mini_coco
from tests.support.training import tiny_config

STRIDES = (8, 16, 32)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return open_index(mini_coco(tmp_path_factory.mktemp("data") / "set"), "train")


@pytest.fixture(scope="module")
def store(index: DatasetIndex) -> LabelStore:
    return LabelStore(ensure_labels(index))


def dataset(index: DatasetIndex, store: LabelStore | None = None, **settings: object) -> ImageDataset:
    values = {
        "geometry": WholeImage((40, 40)),
        "labels": store,
        "strides": STRIDES if store else (),
        "targets": BoxTargets({3: 1, 0: 2}, masks=True),
    }
    return ImageDataset(index, **(values | settings))  # type: ignore[arg-type]


def test_records_come_back_from_their_block_of_bytes(index: DatasetIndex) -> None:
    packed = PackedRecords(index.records)
    assert len(packed) == 3
    assert [packed[number] for number in range(3)] == list(index.records)
    assert packed[-1] == index.records[-1]
    with pytest.raises(IndexError):
        _ = packed[3]


def test_targets_hold_what_is_to_be_learned_under_contiguous_classes(index: DatasetIndex, store: LabelStore) -> None:
    """Image 7 has a mask of class 0, a crowd of class 3 (not learned) and a box of class 3; classes are [3, 0]."""
    sample = dataset(index, store).load(Draw(0, 0))
    assert sample.image.shape == (30, 40, 3)
    assert sample.target["labels"].tolist() == [2, 1]
    assert sample.target["boxes"].tolist() == [[10, 5, 20, 15], [30, 20, 34, 25]]
    assert sample.target["masks"].sum(axis=(1, 2)).tolist() == [100, 20]
    assert sample.grids is not None
    expected = levels(object_mask(index.records[0]), STRIDES)  # the crowd counts for selection
    assert all(np.array_equal(sample.grids[stride], expected[stride]) for stride in STRIDES)


def test_an_image_without_objects_is_kept(index: DatasetIndex, store: LabelStore) -> None:
    sample = dataset(index, store).load(Draw(0, 2))
    assert sample.target["boxes"].shape == (0, 4)
    assert sample.target["masks"].shape == (0, 40, 40)
    assert sample.grids is not None
    assert not any(grid.any() for grid in sample.grids.values())


def test_everything_moves_together(index: DatasetIndex, store: LabelStore) -> None:
    geometry = Geometry((40, 30), True, (0, 0, 40, 30), (80, 60))
    sample = dataset(index, store, geometry=lambda record, draw: geometry).load(Draw(0, 0))
    assert sample.image.shape == (60, 80, 3)
    assert sample.target["boxes"].tolist() == [[40, 10, 60, 30], [12, 40, 20, 50]]
    assert sample.target["masks"].sum(axis=(1, 2)).tolist() == [400, 80]
    assert sample.grids is not None
    moved = geometry.mask(object_mask(index.records[0]))
    assert np.array_equal(sample.grids[16], levels(moved, (16,))[16])


def test_what_is_cropped_away_is_no_target(index: DatasetIndex, store: LabelStore) -> None:
    geometry = Geometry((40, 30), False, (0, 0, 20, 30), (20, 30))
    sample = dataset(index, store, geometry=lambda record, draw: geometry).load(Draw(0, 0))
    assert sample.target["labels"].tolist() == [2]


def test_the_same_draw_gives_the_same_sample_and_another_epoch_another(index: DatasetIndex, store: LabelStore) -> None:
    config = tiny_config(Path(), crop_prob=1.0, scales=(0.5, 0.75, 1.0))
    data = dataset(index, store, geometry=DrawnGeometry(config))
    first, again = data.load(Draw(3, 0)), data.load(Draw(3, 0))
    assert np.array_equal(first.image, again.image)
    shapes = {data.load(Draw(epoch, 0)).image.shape for epoch in range(20)}
    assert len(shapes) > 1


def test_without_labels_or_targets_there_are_none(index: DatasetIndex) -> None:
    sample = dataset(index, None, targets=None).load(Draw(0, 0))
    assert (sample.grids, sample.target) == (None, {})
