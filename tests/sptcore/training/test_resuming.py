"""A run goes on with another number of processes as if nothing had happened, or says which numbers would do."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sptcore.errors import UsageError
from sptcore.runs import Run, load_checkpoint, new_run, read_metrics
from sptcore.training.distributed import Group
from sptcore.training.loop import fit, make_trainer
from sptcore.training.resuming import check_resumable, passes_each
from tests.support.cli import spt
from tests.support.ranks import start_ranks
from tests.support.training import mini_data, tiny_config, tiny_run

QUICK = (
    "--preset", "sample", "--res", "64x64", "--batch", "1", "--epochs", "4", "--device", "cpu", "--set", "log_every=1",
    "--save-every", "1it", "--keep", "9", "--ema", "0.9",
)  # fmt: skip
STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one process that takes two passes a step, undisturbed."""
    home = tmp_path_factory.mktemp("runs") / "whole"
    ran = spt("train", "--data", data, *QUICK, "--accum", 2, "--run-dir", home)
    assert ran.code == 0, ran.err
    return Run(home)


def outcome(processes: list[subprocess.Popen[str]]) -> str:
    """What the first of the processes said, when all have ended well."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said[0]


def kill_after(processes: list[subprocess.Popen[str]], step: Path) -> None:
    """SIGKILL to all of them once a checkpoint is there."""
    deadline = time.monotonic() + 300
    while not step.exists() and time.monotonic() < deadline and processes[0].poll() is None:
        time.sleep(0.005)
    for process in processes:
        process.kill()
        process.communicate()
    assert step.exists()


def assert_alike(run: Run, whole: Run, *, at_step: int) -> None:
    """The same weights, averages, moments and losses, up to the order of sums; and not by starting anew."""
    one, other = (load_checkpoint(each.checkpoints / "last.pt") for each in (run, whole))
    assert one["step"] == other["step"] == STEPS
    states = [[*each["model"].values(), *each["average"].values(), *moments(each)] for each in (one, other)]
    assert len(states[0]) > 100
    for mine, theirs in zip(*states, strict=True):
        torch.testing.assert_close(mine, theirs)
    rows = [[row for row in each.metrics() if "loss" in row] for each in (run, whole)]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-4)
    assert len(rows[0]) == STEPS
    resumed = int(re.findall(r"resumed at step (\d+)", (run.home / "log.txt").read_text())[-1])
    assert at_step <= resumed < STEPS


def moments(checkpoint: dict[str, Any]) -> list[torch.Tensor]:
    states = checkpoint["optimizer"]["state"].values()
    return [tensor for state in states for tensor in (state["exp_avg"], state["exp_avg_sq"])]


@pytest.mark.slow
def test_two_processes_are_killed_and_one_goes_on_then_two_again(data: Path, whole: Run, tmp_path: Path) -> None:
    """As an elastic launch restarts its workers: the same command, with another WORLD_SIZE."""
    home = tmp_path / "run"
    command = ["-m", "sptcli", "train", "--data", str(data), *QUICK, "--devices", "2", "--run-dir", str(home)]
    command += ["--resume", "auto"]
    kill_after(start_ranks("torchrun", command), home / "checkpoints" / "step-00000001.pt")
    alone = start_ranks("torchrun", command, world=1)
    kill_after(alone, home / "checkpoints" / "step-00000004.pt")
    said = outcome(start_ranks("torchrun", command))
    assert "2 x 1 forward passes a step (processes x accum) instead of 1 x 2: the same 2 images" in said
    log = (home / "log.txt").read_text()
    assert "1 x 2 forward passes a step (processes x accum) instead of 2 x 1: the same 2 images" in log
    assert (log.count("instead of"), log.count("resumed at")) == (2, 2)
    assert_alike(Run(home), whole, at_step=4)
    shared = [load_checkpoint(home / "checkpoints" / f"step-0000000{step}.pt") for step in (1, 4, STEPS)]
    assert [(one["processes"], one["accum"]) for one in shared] == [(2, 1), (1, 2), (2, 1)]
    assert "devices = 2 " in (home / "config.toml").read_text()  # what was asked, whoever is at it


@pytest.mark.slow
def test_one_process_stops_and_two_go_on(data: Path, whole: Run, tmp_path: Path) -> None:
    home = tmp_path / "run"
    ran = spt("train", "--data", data, *QUICK, "--accum", 2, "--run-dir", home, "--max-steps", 3)
    assert ran.code == 0, ran.err
    two = ["-m", "sptcli", "train", "--resume", str(home), "--devices", "2", "--max-steps", str(STEPS)]
    outcome(start_ranks("torchrun", two))
    assert_alike(Run(home), whole, at_step=3)


@pytest.mark.slow
def test_a_signal_to_any_process_stops_all_of_them_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    """As a machine that is taken away tells its own processes alone."""
    home = tmp_path / "run"
    command = ["-m", "sptcli", "train", "--data", str(data), *QUICK, "--devices", "2", "--run-dir", str(home)]
    processes = start_ranks("torchrun", [*command, "--epochs", "4000", "--save-every", "4000ep"])
    deadline = time.monotonic() + 300
    while not (home / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].terminate()
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    step = load_checkpoint(home / "checkpoints" / "last.pt")["step"]
    assert f"stopped by SIGTERM at step {step}" in (home / "log.txt").read_text()
    assert step >= 1


def test_two_processes_of_the_settings_are_one_that_accumulates(data: Path, tmp_path: Path) -> None:
    """In the library: the settings stay, the group decides; every bit, as one process does both."""
    whole = tiny_run(tmp_path / "whole", data, batch=1, accum=2).run
    run = tiny_run(tmp_path / "run", data, batch=1, accum=2, max_steps=1).run
    config = tiny_config(data, batch=1, devices=2)
    check_resumable(config, run)
    assert fit(config, run, resume=True).step == 4
    ends = [load_checkpoint(each.checkpoints / "last.pt")["model"] for each in (run, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    losses = [
        [row["loss"] for row in read_metrics(each.home / "metrics.jsonl") if "loss" in row] for each in (run, whole)
    ]
    assert losses[0] == losses[1]


def test_another_number_of_images_a_step_is_another_run(data: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", data, batch=1, accum=2, max_steps=1).run
    for settings in ({"accum": 1}, {"devices": 2, "accum": 2}, {"devices": 2, "batch": 2}, {"nodes": 3}):
        with pytest.raises(UsageError, match="a resumed run keeps its settings"):
            check_resumable(tiny_config(data, **{"batch": 1, **settings}), run)


def test_numbers_of_processes_that_share_a_step_evenly() -> None:
    config = tiny_config(Path("nowhere"), devices=3, nodes=2, accum=2)
    assert [passes_each(config, world) for world in (1, 2, 3, 4, 6, 12)] == [12, 6, 4, 3, 2, 1]
    for world in (0, 5, 8, 24):
        with pytest.raises(UsageError, match=f"12 forward passes cannot be shared evenly by {world} proc") as caught:
            passes_each(config, world)
        assert str(caught.value.hint).endswith("1, 2, 3, 4, 6, 12")


def test_a_run_is_not_begun_by_another_number_unless_that_is_said(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, devices=2)
    with pytest.raises(UsageError, match="for 2 processes, there are 1"):
        fit(config, new_run("train", "tiny", folder=tmp_path / "run"))
    with pytest.raises(UsageError, match="cannot be shared evenly by 3"):
        make_trainer(config, group=Group(0, 3), regroup=True)


def test_devices_that_do_not_fit_are_refused_with_those_that_do(data: Path, tmp_path: Path) -> None:
    home = tiny_run(tmp_path / "run", data, batch=1, accum=2, max_steps=1).run.home
    ran = spt("train", "--resume", home, "--devices", 3)
    assert (ran.code, "a step of 2 forward passes cannot be shared evenly by 3 processes" in ran.err) == (2, True)
    assert "that keep the images of a step: 1, 2" in ran.err
    ran = spt("train", "--resume", home, "--devices", 2, "--accum", 2)
    assert (ran.code, "devices was 1, now 2" in " ".join(ran.err.split())) == (2, True), ran.err
    ran = spt("train", "--resume", home, "--devices", 0)
    assert (ran.code, "Traceback" in ran.err) == (2, False)
