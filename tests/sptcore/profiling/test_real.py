from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sptcore.data.locate import open_index
from sptcore.data.rasterize import touch_mask
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, UsageError
from sptcore.labels.pyramid import levels
from sptcore.models.variants import VARIANTS
from sptcore.profiling.job import ProfileRequest
from sptcore.profiling.plan import DataChoice, ProfilePlan, rival_of, subjects
from sptcore.profiling.real import label_selection, measured_selection
from sptcore.profiling.subjects import AUTO_RATIOS, Setting
from sptcore.runs import Run
from sptcore.runs.models import load_model
from sptcore.tasks.detector import HEADS
from tests.support.weights import nano_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_weights(tmp_path_factory.mktemp("weights") / "nano.safetensors")


@pytest.fixture(scope="module")
def index() -> DatasetIndex:
    return open_index("sample", "val")


def test_label_ratios_are_those_of_the_pyramids(index: DatasetIndex) -> None:
    found = label_selection(VARIANTS["spt-nano"], index, (128, 128), limit=6)
    grids = [levels(touch_mask(record), (16, 32)) for record in index.records[:6]]
    expected = [float(np.mean([grid[stride] for grid in grids])) for stride in (16, 16, 32, 32)]
    assert found.name == "labels"
    assert found.ratios == pytest.approx(expected)
    assert 0 < found.ratios[0] < found.ratios[2] < 1


def test_measured_ratios_are_those_of_one_batch(index: DatasetIndex, weights: Path) -> None:
    """Six images one by one select what they select together: evaluation is independent of the batch."""
    from sptcore.data.images import read_image

    loaded = load_model(Run(None, weights))
    found = measured_selection(loaded, index, (128, 128), limit=6)
    pixels = np.stack([read_image(index.image_path(record)).transpose(2, 0, 1) for record in index.records[:6]])
    model = loaded.model
    with torch.inference_mode():
        images = model.transform(torch.from_numpy(pixels), [(128, 128)] * 6)
        features = model.backbone.body(images)
    assert found.ratios == pytest.approx([float(one.selection.ratio) for one in features.selections])


def test_a_larger_frame_has_other_ratios(index: DatasetIndex) -> None:
    small = label_selection(VARIANTS["spt-nano"], index, (64, 64), limit=4)
    large = label_selection(VARIANTS["spt-nano"], index, (512, 512), limit=4)
    assert small.ratios[0] > large.ratios[0]


def test_an_empty_split_is_refused(index: DatasetIndex) -> None:
    import msgspec

    empty = msgspec.structs.replace(index, records=())
    with pytest.raises(DataError, match="no image"):
        label_selection(VARIANTS["spt-nano"], empty, (128, 128), limit=4)


def test_a_plan_puts_real_ratios_before_forced_ones(weights: Path) -> None:
    plan = ProfilePlan(
        ("swin-nano", "spt-nano"), (128, 128), (0.5,), str(weights), DataChoice("sample", limit=2), categories=3
    )
    found = {one.name: [selection.name for selection in one.selections] for one in subjects(plan, CPU)}
    assert found == {"swin-nano": ["dense"], "spt-nano": ["labels", "0.5"], "nano": ["measured", "0.5"]}
    trained = subjects(plan, CPU)[-1]
    assert trained.state is not None
    assert (trained.shape.categories, trained.shape.heads) == (2, HEADS["small"])


def test_models_beside_trained_weights_have_heads_for_the_same_categories(weights: Path, tmp_path: Path) -> None:
    plan = ProfilePlan(("swin-nano",), (128, 128), (0.5,), str(weights), DataChoice("sample", limit=1))
    rival, trained = subjects(plan, CPU)
    assert rival.shape == trained.shape
    assert (rival.shape.categories, rival.shape.masks) == (2, True)
    assert subjects(replace(plan, categories=5), CPU)[0].shape.categories == 5
    (alone,) = subjects(replace(plan, weights=None, data=None), CPU)
    assert alone.shape.categories == 80


def test_auto_ratios_without_data_or_weights() -> None:
    (one,) = subjects(ProfilePlan(("spt-t",), (64, 64)), CPU)
    assert [selection.ratios for selection in one.selections] == [(ratio,) * 8 for ratio in AUTO_RATIOS]


def test_a_lone_weights_file_needs_data(weights: Path) -> None:
    plan = ProfilePlan((), (128, 128), (0.5,), str(weights))
    with pytest.raises(UsageError) as caught:
        subjects(plan, CPU)
    assert "--data" in str(caught.value.hint)
    labelled = subjects(replace(plan, data=DataChoice("sample", limit=1)), CPU)
    assert labelled[0].selections[0].name == "measured"


def test_trained_weights_are_shown_beside_the_swin_of_their_size(weights: Path, tmp_path: Path) -> None:
    assert rival_of(("swin-t", "spt-t"), None) == ("swin-t", "spt-t")
    assert rival_of(("swin-t", "spt-t"), str(weights)) == ("swin-nano",)
    dense = nano_weights(tmp_path / "swin.safetensors", variant="swin-nano")
    assert rival_of(("swin-t", "spt-t"), str(dense)) == ()


def test_a_run_called_as_a_model_is_told_apart(tmp_path: Path) -> None:
    """Its rows, and what was counted for it, are not those of the fresh model."""
    weights = nano_weights(tmp_path / "spt-nano.safetensors")
    plan = ProfilePlan(("spt-nano", "spt-nano"), (64, 64), (0.5, 0.50), str(weights), DataChoice("sample", limit=1))
    found = subjects(plan, CPU)
    assert [one.name for one in found] == ["spt-nano", "spt-nano (trained)"]
    assert [one.name for one in found[1].selections] == ["measured", "0.5"]
    with pytest.raises(ValueError, match="names of their own"):
        ProfileRequest((found[0], found[0]), Setting("backbone", 64, 64))
