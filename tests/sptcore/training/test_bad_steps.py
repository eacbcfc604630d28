"""Steps that cannot be taken: losses that are not finite, memory that runs out (faults 69, 70)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from sptcore.errors import NumericalError, ResourceError
from sptcore.runs import Run, checkpoints, load_checkpoint, load_weights, new_run
from sptcore.training import step as step_module
from sptcore.training.distributed import Group
from sptcore.training.loop import fit
from sptcore.training.step import Stepper, StepResult, make_scaler
from tests.support.kills import finish, start
from tests.support.listening import Listener
from tests.support.training import STEPS, mini_data, tiny_config, tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


def poisoned(steps: set[int]) -> Any:
    forward = Stepper._forward

    def poison(self: Stepper, batch: Any) -> Any:
        outcome = forward(self, batch)
        if poisoned.step not in steps:  # type: ignore[attr-defined]
            return outcome
        return replace(outcome, losses={name: loss * float("nan") for name, loss in outcome.losses.items()})

    return poison


def watch_steps(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    take = Stepper.__call__

    def note(self: Stepper, state: Any, batches: Any) -> StepResult:
        poisoned.step = state.step  # type: ignore[attr-defined]
        return take(self, state, batches)

    monkeypatch.setattr(Stepper, "__call__", note)
    monkeypatch.setattr(Stepper, "_forward", poisoned(steps))


def test_one_loss_that_is_not_finite_is_skipped_and_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_steps(monkeypatch, {1})
    listener = Listener()
    run = new_run("train", "tiny", folder=tmp_path / "run")
    report = fit(tiny_config(data), run, progress=listener)
    assert (report.skipped, report.step) == (1, STEPS)
    assert any("not finite" in line for line in listener.warnings)
    assert [row["skipped"] for row in run.metrics() if "loss" in row] == [0, 1, 1]
    assert all(torch.isfinite(tensor).all() for tensor in load_weights(run.weights)[0].values())
    assert not (run.home / "bad-batches.json").exists()


def test_many_in_a_row_stop_the_run_and_name_the_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_steps(monkeypatch, {2, 3})
    run = new_run("train", "tiny", folder=tmp_path / "run")
    with pytest.raises(NumericalError) as caught:
        fit(tiny_config(data, max_bad_steps=2), run)
    bad = json.loads((run.home / "bad-batches.json").read_text())
    assert [entry["step"] for entry in bad] == [2, 3]
    assert all(set(entry["image_ids"]) <= {7, 2, 5} for entry in bad)
    assert caught.value.where == str(run.home / "bad-batches.json")
    found = checkpoints.latest_checkpoint(run.checkpoints, pytest.fail)
    assert found is not None
    assert found[1]["step"] == 2  # the one before the bad steps: going on from it is going on from a good state
    assert all(torch.isfinite(tensor).all() for tensor in found[1]["model"].values())


def test_a_checkpoint_that_falls_on_a_bad_step_waits_for_a_good_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are broken must not push good checkpoints out; a good step makes up for what was left out."""
    written: list[int] = []
    write = checkpoints._write

    def note(path: Path, state: dict[str, Any]) -> str:
        written.append(state["step"])
        return write(path, state)

    monkeypatch.setattr(checkpoints, "_write", note)
    settings = {"batch": 1, "save_every": "2it", "eval_every": 0, "max_steps": 6}
    for bad, expected in ((set(), [2, 4, 6]), ({1, 2}, [4, 6]), ({3}, [2, 5, 6])):
        written.clear()
        with monkeypatch.context() as patch:
            watch_steps(patch, bad)
            fit(tiny_config(data, **settings), new_run("train", "tiny", folder=tmp_path / f"run-{len(bad)}"))
        assert written == expected


def test_a_device_out_of_memory_is_explained_and_the_last_checkpoint_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Stepper.__call__

    def run_out(self: Stepper, state: Any, batches: Any) -> StepResult:
        if state.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return take(self, state, batches)

    monkeypatch.setattr(Stepper, "__call__", run_out)
    run = new_run("train", "tiny", folder=tmp_path / "run")
    with pytest.raises(ResourceError) as caught:
        fit(tiny_config(data), run)
    assert "batch 2 at 64x64" in caught.value.message
    assert "--batch" in str(caught.value.hint)
    found = checkpoints.latest_checkpoint(run.checkpoints, pytest.fail)
    assert found is not None
    assert found[1]["step"] == 2


def test_a_bad_step_names_the_images_of_all_processes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process's are forced: 98 and 99."""
    watch_steps(monkeypatch, {0})
    both = lambda self, value: [value, [98, 99]] if isinstance(value, list) else [value]  # noqa: E731
    monkeypatch.setattr(Group, "gathered", both)
    run = new_run("train", "tiny", folder=tmp_path / "run")
    with pytest.raises(NumericalError):
        fit(tiny_config(data, max_bad_steps=1), run)
    (bad,) = json.loads((run.home / "bad-batches.json").read_text())
    assert len(bad["image_ids"]) == 4
    assert bad["image_ids"][2:] == [98, 99]


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_both(
    amp: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by one that accumulates: no gradient is left over, the scale stays, the weights are the same."""
    take, forward, at = Stepper.__call__, Stepper._forward, {"step": -1, "pass": -1}

    def begin(self: Stepper, state: Any, batches: Any) -> StepResult:
        at.update({"step": state.step, "pass": -1})
        return take(self, state, batches)

    def poison(self: Stepper, batch: Any) -> Any:
        at["pass"] += 1
        outcome = forward(self, batch)
        number = self.group.rank * (2 // self.group.world) + at["pass"]  # of the step's two
        factor = float("nan") if (at["step"], number) in ((1, 1), (2, 0)) else 1.0
        return replace(outcome, losses={name: loss * factor for name, loss in outcome.losses.items()})

    monkeypatch.setattr(Stepper, "__call__", begin)
    monkeypatch.setattr(Stepper, "_forward", poison)
    scaler = (lambda config, device: GradScaler("cpu", init_scale=256.0)) if amp == "fp16" else make_scaler
    monkeypatch.setattr(step_module, "make_scaler", scaler)  # one that no gradient overflows at
    settings = {"amp": amp, "batch": 1, "ema": 0.9, "max_steps": 4}
    assert finish(start(tmp_path / "two", data, settings, 2)) == [0, 0]
    one = tiny_run(tmp_path / "one", data, accum=2, **settings).run
    states = [load_checkpoint(run.checkpoints / "last.pt") for run in (Run(tmp_path / "two"), one)]
    assert [state["skipped"] for state in states] == [2, 2]
    assert [state["overflowed"] for state in states] == [0, 0]
    assert states[0]["scaler"] == states[1]["scaler"]
    for part in ("model", "average"):
        for name, tensor in states[0][part].items():
            assert torch.isfinite(tensor).all(), name
            if amp == "off":  # half of a gradient is not half of what float16 rounds it to
                torch.testing.assert_close(tensor, states[1][part][name], msg=name)
    said = [line for line in (tmp_path / "two" / "log.txt").read_text().splitlines() if "not finite" in line]
    assert len(said) == 2
    assert all(len(re.findall(r"\d+", line.split("images")[1])) == 2 for line in said)
