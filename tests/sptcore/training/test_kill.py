"""SIGKILL at 24 random moments of runs of one and of two processes: they end bit for bit like runs undisturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kills import Torture
from tests.support.training import mini_data

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("amp", "world", "kills"), [("off", 1, 7), ("bf16", 1, 7), ("off", 2, 5), ("bf16", 2, 5)])
def test_killed_again_and_again_a_run_ends_as_if_undisturbed(amp: str, world: int, kills: int, tmp_path: Path) -> None:
    data = mini_data(tmp_path / "data")
    settings = {"amp": amp, "epochs": 3, "batch": 2 // world}
    torture = Torture(tmp_path, data, settings, world, seed=7 * world)
    torture.run(kills)
    assert torture.differences == []
    assert len(torture.moments) == kills
    assert len({*torture.moments}) > 1, "every kill at the same place"
