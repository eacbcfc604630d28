"""From a weights file to a model with some settings replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sptcore.errors import IntegrityError
from sptcore.models.variants import backbone_config
from sptcore.runs import Run, load_weights, save_weights
from sptcore.runs.models import load_model
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec


def weights_of(folder: Path, **backbone: Any) -> Path:
    task = TASKS["detect"]
    heads = task.heads_config("small", "spt-nano")
    spec = ModelSpec(
        "detect", "spt-nano", backbone_config("spt-nano", **backbone), heads, ((1, "cup"),), True, (64, 64)
    )
    path = folder / "w.safetensors"
    save_weights(path, task.build_model(spec).state_dict(), spec.to_dict())
    return path


@pytest.mark.parametrize("num_spa_blocks", [1, 4, 6, 8])
@pytest.mark.parametrize(
    "changes",
    [{"selector": "ground_truth"}, {"selector": "topk", "topk_score": "gate"}, {"score_propagation": False}],
    ids=str,
)
def test_another_selection_fits_any_number_of_blocks(tmp_path: Path, num_spa_blocks: int, changes: dict) -> None:
    """With 6 blocks s0 is read on a map that no head of the small detector reads: its norm has no use without gates."""
    path = weights_of(tmp_path, num_spa_blocks=num_spa_blocks)
    loaded = load_model(Run(None, path), **changes)
    assert all(getattr(loaded.spec.backbone, name) == value for name, value in changes.items())


def test_without_a_change_every_tensor_must_have_its_place(tmp_path: Path) -> None:
    path = weights_of(tmp_path, selector="ground_truth")
    tensors, info = load_weights(path)
    gate = {"backbone.body.stages.3.blocks.0.selector.gate.bias": next(iter(tensors.values()))}
    save_weights(path, tensors | gate, info.model)
    with pytest.raises(IntegrityError, match="do not fit"):
        load_model(Run(None, path))
