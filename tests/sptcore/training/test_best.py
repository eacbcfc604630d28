"""best.pt is the whole state at the best validation, written once, and a run goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sptcore.errors import IntegrityError
from sptcore.runs import Run, checkpoints, load_checkpoint, new_run
from sptcore.training import loop
from sptcore.training.loop import Trainer, fit
from tests.support.cli import spt
from tests.support.training import difference, final_state, mini_data, tiny_config, tiny_run

BY_STEP = {1: 0.2, 2: 0.6, 3: 0.5, 4: 0.6, 5: 0.3, 6: 0.1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations come to what BY_STEP says."""
    monkeypatch.setattr(Trainer, "_main_figure", lambda self: BY_STEP[self.state.step])


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of the checkpoints that were written, in order."""
    written: list[int] = []
    real = checkpoints._write

    def write(path: Path, state: dict[str, Any]) -> str:
        written.append(state["step"])
        return real(path, state)

    monkeypatch.setattr(checkpoints, "_write", write)
    return written


def test_best_is_the_state_at_the_best_validation_wherever_checkpoints_fall(
    data: Path, tmp_path: Path, writes: list[int]
) -> None:
    run = tiny_run(tmp_path / "run", data, batch=3, epochs=6, save_every="5it", keep=1).run
    assert writes == [1, 2, 4, 5, 6]  # each better than those before, or as good; every fifth; the last
    best = load_checkpoint(run.checkpoints / "best.pt")
    assert (best["step"], best["evaluated_at"], best["best"], best["best_at"]) == (4, 4, 0.6, 4)
    assert best["optimizer"]["state"]
    assert best["average"] is not None
    last = load_checkpoint(run.checkpoints / "last.pt")
    assert (last["step"], last["best"], last["best_at"]) == (6, 0.6, 4)
    assert [path.name for path in run.checkpoints.glob("step-*.pt")] == ["step-00000006.pt"]


def test_a_best_that_falls_on_a_checkpoint_is_written_once(data: Path, tmp_path: Path, writes: list[int]) -> None:
    run = tiny_run(tmp_path / "run", data, batch=3, epochs=2).run
    assert writes == [1, 2]
    assert (run.checkpoints / "best.pt").samefile(run.checkpoints / "last.pt")


def test_a_run_goes_on_from_its_best_checkpoint_as_it_had(data: Path, tmp_path: Path) -> None:
    settings = {"batch": 3, "epochs": 6, "save_every": "5it"}
    whole, run = (tiny_run(tmp_path / name, data, **settings).run for name in ("whole", "run"))
    report = fit(tiny_config(data, **settings), run, resume=run.checkpoints / "best.pt")
    assert report.step == 6
    assert "resumed at step 4" in (run.home / "log.txt").read_text()
    assert difference(final_state(whole), final_state(run)) is None


def test_a_crash_while_the_best_is_named_is_made_up_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    real = loop.save_checkpoint
    settings = {"batch": 3, "epochs": 6, "save_every": "5it"}

    def crash_between(*arguments: Any, **named: Any) -> Path:
        with monkeypatch.context() as patch:
            if named["best"] and named["step"] == 4:
                patch.setattr(
                    checkpoints, "_name", lambda path, *, best: checkpoints._link(path, path.parent / "best.pt")
                )
                real(*arguments, **named)
                raise Crash
            return real(*arguments, **named)

    whole = tiny_run(tmp_path / "whole", data, **settings).run
    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", crash_between)
        with pytest.raises(Crash):
            fit(tiny_config(data, **settings), run)
    with pytest.raises(IntegrityError):
        load_checkpoint(run.checkpoints / "best.pt")
    fit(tiny_config(data, **settings), run, resume=True)
    assert load_checkpoint(run.checkpoints / "best.pt")["step"] == 4
    assert difference(final_state(whole), final_state(run)) is None


def test_the_command_goes_back_to_a_checkpoint_of_a_run_and_to_no_other_file(data: Path, tmp_path: Path) -> None:
    run: Run = tiny_run(tmp_path / "run", data, batch=3, epochs=6, max_steps=5).run
    ran = spt("train", "--resume", run.checkpoints / "best.pt", "--max-steps", 6, "--device", "cpu", "--json")
    assert (ran.code, ran.document["step"]) == (0, 6), ran.err
    assert "resumed at step 4 of 6" in ran.err
    stray = tmp_path / "best.pt"
    stray.write_bytes((run.checkpoints / "best.pt").read_bytes())
    ran = spt("train", "--resume", stray)
    assert (ran.code, "not a checkpoint in its run folder" in ran.err) == (2, True)
    (run.checkpoints / "best.pt").write_bytes(b"damaged")
    before = sorted(path.name for path in run.checkpoints.iterdir())
    ran = spt("train", "--resume", run.checkpoints / "best.pt", "--device", "cpu")
    assert (ran.code, "damaged" in ran.err) == (5, True)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == before
