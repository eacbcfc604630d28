"""Classification in the loop: what runs leave, exact resume with everything drawn at random, real data of each kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sptcore.data.locate import locate
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.runs import Run, new_run
from sptcore.runs.models import load_model
from sptcore.training.loop import fit
from sptcore.training.step import Stepper, StepResult
from sptcore.training.trial import try_run
from tests.support.cli import spt_process
from tests.support.samples import samples_root
from tests.support.tiny import make_tiny
from tests.support.training import STEPS, difference, final_state, mini_data, tiny_config, tiny_run

RANDOM: dict[str, Any] = {"resized_crop": [0.5, 1.0], "rand_augment": 9, "erasing": 0.5, "crop_prob": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "classify": RANDOM | {"task": "classify", "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1},
    "multilabel": RANDOM | {"task": "multilabel", "decay_biases": False},
}
FIGURES = {"classify": ("loss_class", "val.class.top1"), "multilabel": ("loss_label", "val.label.mAP")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    return {"classify": make_tiny(root / "tiny"), "multilabel": mini_data(root / "set")}


@pytest.fixture(scope="module")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each task that nobody disturbed."""
    root = tmp_path_factory.mktemp("runs")
    return {task: tiny_run(root / task, data[task], **SETTINGS[task]).run for task in SETTINGS}


class Crash(Exception):
    pass


@pytest.mark.parametrize("task", SETTINGS)
def test_metrics_hold_the_losses_the_ratios_and_the_figures(task: str, whole: dict[str, Run]) -> None:
    loss, figure = FIGURES[task]
    rows = whole[task].metrics()
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    for row in steps:
        assert row["loss"] == pytest.approx(row[loss] + row["loss_select"], rel=1e-6)
        assert 0 <= row["select_ratio.stage3"] <= 1
    assert [row["step"] for row in rows if figure in row] == [2, 4]
    loaded = load_model(whole[task])
    assert (loaded.spec.task, loaded.spec.masks) == (task, False)
    assert loaded.spec.heads.get("label_smoothing") == (0.1 if task == "classify" else None)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("task", SETTINGS)
def test_a_crash_and_a_resume_are_bit_equal(
    task: str, step: int, whole: dict[str, Run], data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Stepper.__call__

    def crash_late(self: Stepper, state: Any, batches: Any) -> StepResult:
        result = take(self, state, batches)
        if state.step == step:
            raise Crash
        return result

    run = new_run("train", "tiny", folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", crash_late)
        with pytest.raises(Crash):
            fit(tiny_config(data[task], **SETTINGS[task]), run)
    torch.manual_seed(999)
    fit(tiny_config(data[task], **SETTINGS[task]), run, resume=True)
    assert difference(final_state(whole[task]), final_state(run)) is None


@pytest.mark.parametrize("change", [{"seed": 1}, {"mixup": 0.0, "cutmix": 0.0}, {"rand_augment": 0}, {"erasing": 0.0}])
def test_everything_drawn_at_random_shows_in_the_result(
    change: dict[str, Any], whole: dict[str, Run], data: dict[str, Path], tmp_path: Path
) -> None:
    other = tiny_run(tmp_path / "run", data["classify"], **SETTINGS["classify"] | change).run
    assert difference(final_state(whole["classify"]), final_state(other)) is not None


def test_loading_in_other_processes_changes_nothing(
    whole: dict[str, Run], data: dict[str, Path], tmp_path: Path
) -> None:
    other = tiny_run(tmp_path / "run", data["classify"], workers=1, **SETTINGS["classify"]).run
    assert difference(final_state(whole["classify"]), final_state(other)) is None


def test_a_dense_model_trains_without_labels_and_a_trial_tells_its_time(data: dict[str, Path], tmp_path: Path) -> None:
    settings = SETTINGS["classify"] | {"model": "swin-nano", "max_steps": 2}
    rows = tiny_run(tmp_path / "run", data["classify"], **settings).run.metrics()
    assert all(name not in rows[0] for name in ("loss_select", "select_ratio.stage3"))
    trial = try_run(tiny_config(data["classify"], **SETTINGS["classify"]))
    assert (trial.images, trial.classes, trial.masks, trial.steps) == (4, 2, False, STEPS)
    assert math.isfinite(trial.loss)


@pytest.mark.slow
def test_two_processes_learn_together(data: dict[str, Path], tmp_path: Path) -> None:
    sets = ("res=64x64", "batch=1", "max_steps=2", "epochs=2", "label_smoothing=0.1", "mixup=0.8", "decay_biases=false")
    ran = spt_process(
        "train", "--data", data["classify"], "--model", "spt-nano", "--devices", 2, "--device", "cpu",
        "--run-dir", tmp_path / "run", *(part for one in sets for part in ("--set", one)),
        env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert (tmp_path / "run" / "weights" / "best.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in-s", "tiny-imagenet-200", "voc"])
def test_real_samples_train_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "cache"))
    root = samples_root("tiny-imagenet-200" if name == "in-s" else name)
    if name == "in-s":
        make_sparse(locate(root), SparseRule(None), tmp_path / "in-s", SparsePlan(splits=("val",), pad=(2, 2)))
        root = tmp_path / "in-s"
    task = "multilabel" if name == "voc" else "classify"
    settings = SETTINGS[task] | {"max_steps": 2, "batch": 4, "eval_every": 0, "save_every": "1ep", "res": "128x128"}
    settings |= {"split": "val"} if name == "in-s" else {}
    report = fit(tiny_config(root, **settings), new_run("train", name, folder=tmp_path / "run"))
    rows = [row for row in report.run.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) and row["loss_select"] > 0 for row in rows)
    assert report.evaluation is not None
    figures = report.evaluation.figures()
    assert 0 <= figures[FIGURES[task][1].removeprefix("val.")] <= 1
    if name == "in-s":
        assert figures["label_ratio.stage3"] == figures["label_ratio.stage4"] == 0.25
        assert rows[0]["label_ratio.stage3"] == 0.25
