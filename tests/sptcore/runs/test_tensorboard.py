"""TensorBoard: one event a step, also of a resumed run; a clear error where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sptcore.errors import EnvironmentFault
from sptcore.runs.tensorboard import FOLDER, TensorBoardLog, require_tensorboard

MISSING = "TensorBoard (the extra `log`) is not installed"


def scalars(home: Path, tag: str) -> list[tuple[int, float]]:
    """The points of a curve as TensorBoard shows them."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason=MISSING,
    )
    events = accumulator.EventAccumulator(str(home / FOLDER))
    events.Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(tag)]


def test_rows_become_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=MISSING)
    log = TensorBoardLog(tmp_path)
    for step in (1, 2):
        log.append({"step": step, "loss": 1 / step, "val.bbox.AP": 0.5, "grad_norm": float("nan"), "note": "x"})
    log.close()
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.5)]
    assert scalars(tmp_path, "val/bbox.AP") == [(1, 0.5), (2, 0.5)]
    with pytest.raises(KeyError):
        scalars(tmp_path, "grad_norm")


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    """Five steps, a crash, and a resume at the third."""
    pytest.importorskip("tensorboard", reason=MISSING)
    rows = [{"step": step, "loss": float(step)} for step in range(1, 6)]
    log = TensorBoardLog(tmp_path)
    for row in rows:
        log.append(row)
    log.close()
    log = TensorBoardLog(tmp_path, step=3, rows=rows[:3])
    log.append({"step": 4, "loss": 40.0})
    log.close()
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_without_it_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EnvironmentFault) as caught:
        require_tensorboard()
    assert "pip install 'spt[log]'" in str(caught.value.hint)


def test_a_run_that_begins_anew_has_each_step_once(tmp_path: Path) -> None:
    """A crash before the first checkpoint: the resumed run goes on from step 0."""
    pytest.importorskip("tensorboard", reason=MISSING)
    for value in (1.0, 2.0):
        log = TensorBoardLog(tmp_path)
        for step in (1, 2):
            log.append({"step": step, "loss": value * step})
        log.close()
        next((tmp_path / FOLDER).iterdir()).rename(
            tmp_path / FOLDER / f"events.out.tfevents.{value}.host"
        ) if value == 1 else None
    assert scalars(tmp_path, "loss") == [(1, 2.0), (2, 4.0)]
