"""The bundled weights: what they are, how large they may be, and that the command which makes them works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptcore.demo.weights import build_demo_weights
from sptcore.runs import Run, load_weights
from sptcore.runs.demo import DEMO_WEIGHTS
from sptcore.runs.models import load_model


def test_the_bundled_weights_are_a_small_selecting_detector() -> None:
    assert DEMO_WEIGHTS.stat().st_size < 4_000_000
    loaded = load_model(Run(None, DEMO_WEIGHTS))
    assert loaded.spec.variant == "spt-nano"
    assert loaded.spec.backbone.num_spa_blocks > 0
    assert all(torch.isfinite(tensor).all() for tensor in loaded.model.state_dict().values())


@pytest.mark.slow
def test_the_weights_can_be_made_again(tmp_path: Path) -> None:
    path = build_demo_weights(tmp_path / "made" / "again.safetensors", epochs=1)
    made, bundled = load_weights(path), load_weights(DEMO_WEIGHTS)
    assert {name: tensor.shape for name, tensor in made[0].items()} == {
        name: tensor.shape for name, tensor in bundled[0].items()
    }
    assert made[1].model == bundled[1].model
    assert made[1].notes["demo"] is True
    assert {tensor.dtype for tensor in made[0].values() if tensor.is_floating_point()} == {torch.float16}
