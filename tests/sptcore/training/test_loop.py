"""The training loop: what it leaves, and that stopping anywhere changes nothing (O26, faults 65, 67, 68, 71)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sptcore.errors import IntegrityError, UsageError
from sptcore.progress import Silent
from sptcore.runs import Run, checkpoints, load_weights, new_run, read_metrics
from sptcore.runs.models import load_model
from sptcore.training import loop, meters
from sptcore.training.loop import fit
from sptcore.training.step import Stepper, StepResult
from tests.support.training import STEPS, difference, final_state, mini_data, tiny_config, tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody disturbed."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "whole", data).run


class Crash(Exception):
    pass


class Listener(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    warn = note


def test_a_run_leaves_what_the_reference_says(whole: Run) -> None:
    names = {path.name for path in whole.home.iterdir()}
    assert {
        "config.toml", "command.txt", "env.json", "metrics.csv", "metrics.jsonl", "log.txt", "checkpoints", "weights",
        "predictions.json",
    } == names  # fmt: skip
    assert {path.name for path in (whole.home / "weights").iterdir()} == {
        "best.safetensors", "ema.safetensors", "last.safetensors",
    }  # fmt: skip
    assert len(list(whole.checkpoints.glob("step-*.pt"))) == 3
    assert {"last.pt", "best.pt"} <= {path.name for path in whole.checkpoints.iterdir()}


def test_metrics_have_the_losses_and_the_ratios_of_every_step(whole: Run) -> None:
    rows = whole.metrics()
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    wanted = {"loss_classifier", "loss_select", "lr", "grad_norm", "select_ratio.stage3", "own_ratio.stage4", "skipped"}
    assert all(wanted <= row.keys() for row in steps)
    for row in steps:
        parts = sum(value for name, value in row.items() if name.startswith("loss_"))
        assert row["loss"] == pytest.approx(parts, rel=1e-6)
    assert [row["step"] for row in rows if "val.bbox.AP" in row] == [2, 4]
    assert "val.bbox.AP" in (whole.home / "metrics.csv").read_text().splitlines()[0]


def test_the_weights_build_the_model_that_was_evaluated(whole: Run) -> None:
    loaded = load_model(whole)
    assert [category for category, _ in loaded.spec.categories] == [0, 3]
    assert loaded.spec.resolution == (64, 64)
    tensors, _ = load_weights(whole.weights)
    assert difference(dict(loaded.model.state_dict()), tensors) is None


def test_the_same_settings_give_the_same_run_and_another_seed_another(whole: Run, data: Path, tmp_path: Path) -> None:
    again = tiny_run(tmp_path / "again", data).run
    assert difference(final_state(whole), final_state(again)) is None
    other = tiny_run(tmp_path / "other", data, seed=1).run
    assert difference(final_state(whole), final_state(other)) is not None


@pytest.mark.parametrize("workers", [1])
def test_loading_in_other_processes_changes_nothing(whole: Run, data: Path, tmp_path: Path, workers: int) -> None:
    other = tiny_run(tmp_path / "run", data, workers=workers).run
    assert difference(final_state(whole), final_state(other)) is None


@pytest.mark.parametrize("step", range(STEPS))
def test_a_crash_in_any_step_and_a_resume_is_bit_equal(
    step: int, whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Stepper.__call__

    def crash_late(self: Stepper, state: Any, batches: Any) -> StepResult:
        if state.step == step:
            take(self, state, batches)  # the optimizer has moved already
            raise Crash
        return take(self, state, batches)

    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", crash_late)
        with pytest.raises(Crash):
            fit(tiny_config(data), run)
    torch.manual_seed(999)  # resuming must not lean on any generator's state
    fit(tiny_config(data), run, resume=True)
    assert difference(final_state(whole), final_state(run)) is None


@pytest.mark.parametrize("name", ["save_checkpoint", "save_weights", "evaluate_model"])
def test_a_crash_while_saving_or_validating_is_bit_equal(
    name: str, whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = getattr(loop, name)

    def crash_second(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise Crash
        return real(*arguments, **named)

    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, name, crash_second)
        with pytest.raises(Crash):
            fit(tiny_config(data), run)
    fit(tiny_config(data), run, resume=True)
    assert difference(final_state(whole), final_state(run)) is None


def test_metrics_averaged_over_steps_survive_a_crash_between_two_lines(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"log_every": 3, "ema": 0.0}
    undisturbed = tiny_run(tmp_path / "whole", data, **settings).run
    take = Stepper.__call__

    def crash(self: Stepper, state: Any, batches: Any) -> StepResult:
        if state.step == 2:
            raise Crash
        return take(self, state, batches)

    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", crash)
        with pytest.raises(Crash):
            fit(tiny_config(data, **settings), run)
    fit(tiny_config(data, **settings), run, resume=True)
    assert difference(final_state(undisturbed), final_state(run)) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_after_the_step_with_a_checkpoint(
    number: signal.Signals, whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Stepper.__call__

    def be_told(self: Stepper, state: Any, batches: Any) -> StepResult:
        if state.step == 1:
            os.kill(os.getpid(), number)
        return take(self, state, batches)

    run = new_run("train", "tiny", folder=tmp_path / "run")
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", be_told)
        report = fit(tiny_config(data, save_every="1ep"), run)
    assert (report.stopped, report.step) == (number.name, 2)
    assert signal.getsignal(number) is before
    assert run.weights.is_file()
    assert str(run.home) in report.resume_command
    report = fit(tiny_config(data), run, resume=True)
    assert report.stopped is None
    assert difference(final_state(whole), final_state(run)) is None


def test_a_signal_during_validation_stops_it_and_it_is_done_on_resume(
    whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.evaluate_model

    def be_told(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_model", be_told)
        assert fit(tiny_config(data), run).stopped == "SIGTERM"
    assert [row for row in run.metrics() if "val.bbox.AP" in row] == []
    fit(tiny_config(data), run, resume=True)
    assert difference(final_state(whole), final_state(run)) is None


def test_a_crash_after_a_validation_made_up_for_leaves_one_row_of_it(
    whole: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in a validation, a resume that does it, a crash before the next checkpoint, a resume."""
    real = loop.evaluate_model

    def be_told(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    def crash(self: Stepper, state: Any, batches: Any) -> StepResult:
        raise Crash

    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_model", be_told)
        fit(tiny_config(data), run)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", crash)
        with pytest.raises(Crash):
            fit(tiny_config(data), run, resume=True)
    fit(tiny_config(data), run, resume=True)
    assert difference(final_state(whole), final_state(run)) is None


def test_time_is_up_before_the_first_step(whole: Run, data: Path, tmp_path: Path) -> None:
    run = new_run("train", "tiny", folder=tmp_path / "run")
    report = fit(tiny_config(data), run, time_limit=0.0)
    assert (report.stopped, report.step) == ("time limit", 0)
    fit(tiny_config(data), run, resume=True)
    assert difference(final_state(whole)["metrics"], final_state(run)["metrics"]) is None


def test_a_damaged_latest_checkpoint_falls_back_with_a_notice(whole: Run, data: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", data).run
    newest = max(run.checkpoints.glob("step-*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.unlink()
    newest.write_bytes(content)
    listener = Listener()
    fit(tiny_config(data), run, resume=True, progress=listener)
    assert any("falling back" in line for line in listener.lines)
    assert difference(final_state(whole), final_state(run)) is None


def test_other_settings_and_other_models_are_refused(whole: Run, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lr was 0\.001, now 0\.5"):
        fit(tiny_config(data, lr=0.5), whole, resume=True)
    run = tiny_run(tmp_path / "run", data, max_steps=1).run
    other = tiny_config(data, model="swin-nano", max_steps=1)
    (run.home / "config.toml").write_text(other.to_toml())
    with pytest.raises(IntegrityError, match="num_spa_blocks 4, here 0"):
        fit(other, run, resume=True)


def test_settings_for_several_processes_are_not_for_one(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 processes, there are 1"):
        tiny_run(tmp_path / "run", data, devices=2)


def test_accumulating_takes_the_same_images_a_step(data: Path, tmp_path: Path) -> None:
    report = tiny_run(tmp_path / "run", data, batch=1, accum=2)
    assert report.total_steps == STEPS
    assert all(torch.isfinite(tensor).all() for tensor in load_weights(report.run.weights)[0].values())


def test_bfloat16_trains_with_gates_in_float32(data: Path, tmp_path: Path) -> None:
    report = tiny_run(tmp_path / "run", data, amp="bf16", max_steps=2)
    rows = [row for row in report.run.metrics() if "loss" in row]
    assert len(rows) == 2
    assert all(row["loss"] < 20 for row in rows)


def test_a_swin_trains_without_labels(data: Path, tmp_path: Path) -> None:
    report = tiny_run(tmp_path / "run", data, model="swin-nano", max_steps=1)
    row = read_metrics(report.run.home / "metrics.jsonl")[0]
    assert "loss_select" not in row
    assert not any(name.startswith("select_ratio") for name in row)


def test_starting_from_weights_of_ours_and_of_another_model(whole: Run, data: Path, tmp_path: Path) -> None:
    listener = Listener()
    config = tiny_config(data, init=str(whole.weights), max_steps=1)
    fit(config, new_run("train", "tiny", folder=tmp_path / "run"), progress=listener)
    assert any("weights from" in line for line in listener.lines)
    with pytest.raises(IntegrityError, match="do not fit"):
        tiny_run(tmp_path / "other", data, init=str(whole.weights), heads="standard", max_steps=1)


def test_curves_for_tensorboard_survive_a_crash(
    data: Path, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard (the extra `log`) is missing"
    )
    take = Stepper.__call__

    def crash_late(self: Stepper, state: Any, batches: Any) -> StepResult:
        if state.step == 3:
            raise Crash
        return take(self, state, batches)

    config = tiny_config(data, log="csv,tensorboard", save_every="1ep")
    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", crash_late)
        with pytest.raises(Crash):
            fit(config, run)
    fit(config, run, resume=True)
    events = accumulator.EventAccumulator(str(run.home / "tensorboard"))
    events.Reload()
    wanted = {row["step"]: row["loss"] for row in whole.metrics() if "loss" in row}
    assert [event.step for event in events.Scalars("loss")] == list(wanted)
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(list(wanted.values()), rel=1e-5)
    assert [event.step for event in events.Scalars("val/bbox.AP")] == [2, 4]


def test_a_row_counts_the_time_of_all_its_steps_and_of_no_validation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second a step, a hundred a validation, which falls between the second and the third step of a row."""
    now = [0.0]
    take, real = Stepper.__call__, loop.evaluate_model

    def step(self: Stepper, state: Any, batches: Any) -> StepResult:
        now[0] += 1
        return take(self, state, batches)

    def evaluate(*arguments: Any, **named: Any) -> Any:
        now[0] += 100
        return real(*arguments, **named)

    for module in (loop, meters):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Stepper, "__call__", step)
    monkeypatch.setattr(loop, "evaluate_model", evaluate)
    rows = tiny_run(tmp_path / "run", data, log_every=3).run.metrics()
    assert [(row["step"], row["seconds"], row["img_per_s"]) for row in rows if "loss" in row] == [(3, 3, 2), (4, 1, 2)]
    assert [row["seconds"] for row in rows if "val.bbox.AP" in row] == [100, 100]


def test_the_last_validation_made_up_for_says_which_checkpoint_is_best(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_told(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    real = loop.evaluate_model
    config, run = tiny_config(data, eval_every=0), new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_model", be_told)
        assert fit(config, run).stopped == "SIGTERM"
    assert not (run.checkpoints / "best.pt").exists()
    assert fit(config, run, resume=True).stopped is None
    assert checkpoints.load_checkpoint(run.checkpoints / "best.pt")["step"] == STEPS
