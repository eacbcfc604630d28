from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sptcore.data.images import read_image
from sptcore.data.locate import open_index
from sptcore.data.rasterize import touch_mask
from sptcore.errors import UsageError
from sptcore.labels.pyramid import levels
from sptcore.runs import Run
from sptcore.runs.models import LoadedModel, load_model
from sptcore.tasks.base import Batch
from sptcore.viz.looking import frame_of, label_layers, look
from tests.support.weights import nano_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_weights(tmp_path_factory.mktemp("weights") / "nano.safetensors")


@pytest.fixture(scope="module")
def loaded(weights: Path) -> LoadedModel:
    return load_model(Run(None, weights))


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_layers_are_what_the_task_itself_selects(loaded: LoadedModel) -> None:
    """The same tokens as in evaluation: same frame, same padding, same normalisation."""
    image = scene(100, 128)
    layers = look(loaded, image, frame_of(loaded, image))
    padded = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    padded[0, :, :100] = torch.from_numpy(image).permute(2, 0, 1)
    size = torch.tensor([[100, 128]])
    _, features = loaded.task.predict(loaded.model, Batch(padded, size, size, [1]), loaded.spec)
    for layer, placed in zip(layers, features.selections, strict=True):
        assert np.array_equal(layer.mask, placed.selection.mask[0].numpy())
        assert (layer.stage, layer.block, layer.stride) == (placed.stage, placed.block + 1, placed.stride)
        assert layer.ratio == pytest.approx(float(placed.selection.ratio))
    assert 0 < layers[1].ratio < 1


def test_an_image_is_fitted_into_the_resolution_of_the_weights_or_the_one_asked_for(loaded: LoadedModel) -> None:
    image = scene(200, 400)
    assert frame_of(loaded, image).out == (128, 64)
    assert frame_of(loaded, image, (400, 400)).out == (400, 200)
    layers = look(loaded, image, frame_of(loaded, image, (320, 320)))
    assert layers[0].frame == (160, 320)
    assert layers[0].inside.shape == (10, 20)


def test_labels_of_an_unchanged_image_are_the_levels_of_its_mask(loaded: LoadedModel) -> None:
    index = open_index("sample", "val")
    record = next(one for one in index.records if one.instances)
    image = read_image(index.image_path(record))
    geometry = frame_of(loaded, image)
    mask = touch_mask(record)
    labels = label_layers(look(loaded, image, geometry), mask, geometry)
    expected = levels(mask, (16, 32))
    assert [one.name for one in labels] == ["3.1", "3.2", "4.1", "4.2"]
    assert all(np.array_equal(one.mask, expected[one.stride]) for one in labels)


def test_a_model_that_selects_by_labels_selects_them_and_refuses_without(weights: Path) -> None:
    by_truth = load_model(Run(None, weights), selector="ground_truth")
    image, mask = scene(90, 128), np.zeros((90, 128), np.uint8)
    mask[40:60, 70:100] = 1
    geometry = frame_of(by_truth, image)
    layers = look(by_truth, image, geometry, mask)
    wanted = label_layers(layers, mask, geometry)
    assert all(np.array_equal(one.inside, other.inside) for one, other in zip(layers, wanted, strict=True))
    with pytest.raises(UsageError, match="by labels"):
        look(by_truth, image, geometry)
