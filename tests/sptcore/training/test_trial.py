"""What a dry run says of a run."""

from __future__ import annotations

from pathlib import Path

from sptcore.training.trial import try_run
from tests.support.training import STEPS, mini_data, tiny_config


def test_the_steps_are_those_of_the_run(tmp_path: Path) -> None:
    """Three images, two epochs: two steps an epoch alone, one where two processes take two images each."""
    data = mini_data(tmp_path / "set")
    trial = try_run(tiny_config(data))
    assert (trial.images, trial.classes, trial.steps) == (3, 2, STEPS)
    assert try_run(tiny_config(data, devices=2)).steps == STEPS // 2
