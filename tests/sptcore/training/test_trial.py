"""What a dry run says of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.training.state import AveragedWeights
from sptcore.training.trial import try_run
from tests.support.training import STEPS, mini_data, tiny_config


def test_the_steps_are_those_of_the_run(tmp_path: Path) -> None:
    """Three images, two epochs: two steps an epoch alone, one where two processes take two images each."""
    data = mini_data(tmp_path / "set")
    trial = try_run(tiny_config(data))
    assert (trial.images, trial.classes, trial.steps) == (3, 2, STEPS)
    assert try_run(tiny_config(data, devices=2)).steps == STEPS // 2


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_averaged_weights_are_held_as_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float) -> None:
    updates: list[AveragedWeights] = []
    monkeypatch.setattr(AveragedWeights, "update_parameters", lambda self, model: updates.append(self))
    try_run(tiny_config(mini_data(tmp_path / "set"), ema=ema))
    assert len(updates) == (2 if ema else 0)
