"""`spt train`: a run and what it leaves, going on, and the errors a person meets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from sptcli import train
from sptcli.session import Session
from sptcli.train import _shared_home
from sptcore.errors import EnvironmentFault
from sptcore.runs import Run, open_run
from sptcore.training import loop
from sptcore.training.distributed import Group
from tests.support.cli import spt
from tests.support.training import difference, final_state, mini_data

QUICK = ("--preset", "sample", "--res", "64x64", "--batch", "2", "--epochs", "2", "--device", "cpu", "--ema", "0.9")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "first"
    ran = spt("train", "--data", data, *QUICK, "--run-dir", folder, "--set", "crop_prob=0.5")
    assert ran.code == 0, ran.err
    assert "bbox.AP" in ran.out
    assert f"next: spt evaluate {folder}" in ran.err
    return Run(folder)


def test_settings_come_from_flags_sets_and_the_preset(run: Run, data: Path) -> None:
    settings = run.config["train"]
    assert (settings["data"], settings["res"], settings["batch"], settings["crop_prob"]) == (str(data), "64x64", 2, 0.5)
    assert (settings["model"], settings["select_loss_weight"], settings["preset"]) == ("spt-nano", 0.2, "sample")


def test_the_config_file_of_a_run_runs_it_again(run: Run, tmp_path: Path) -> None:
    ran = spt("train", "--config", run.home / "config.toml", "--run-dir", tmp_path / "again", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert (document["schema"], document["ok"], document["step"], document["stopped"]) == ("spt.train/1", True, 4, None)
    assert Path(document["artefacts"]["weights"]).is_file()
    assert difference(final_state(run), final_state(Run(tmp_path / "again"))) is None


def test_a_short_run_is_gone_on_with(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert spt("train", "--data", data, *QUICK, "--run-dir", folder, "--max-steps", 2).code == 0
    ran = spt("train", "--resume", folder, "--max-steps", 3, "--json")
    assert ran.code == 0, ran.err
    assert (ran.document["step"], ran.document["total_steps"]) == (3, 3)
    assert "resumed at step 2 of 3" in ran.err
    assert spt("train", "--resume", "auto", "--run-dir", folder, "--max-steps", 3).code == 0
    ran = spt("train", "--resume", folder, "--lr", 0.5)
    assert ran.code == 2
    assert "lr was" in ran.err
    ran = spt("train", "--resume", folder, "--preset", "detect-paper")
    assert ran.code == 2
    assert "it began with the preset sample" in ran.err
    assert spt("train", "--resume", folder, "--preset", "sample", "--max-steps", 3).code == 0


def test_a_run_of_its_own_name_is_the_latest(data: Path, tmp_path: Path) -> None:
    env = {"SPT_RUNS": str(tmp_path / "runs"), "SPT_TRAIN_MAX_STEPS": "1"}
    ran = spt("train", "--data", data, *QUICK, "--name", "mine", "--json", env=env)
    assert ran.code == 0, ran.err
    assert ran.document["total_steps"] == 1
    home = Path(ran.document["run"])
    assert home.name.endswith("-mine")
    assert (tmp_path / "runs" / "train" / "latest").resolve() == home.resolve()


def test_what_fits_is_found_written_and_kept(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ran = spt("train", "--data", data, *QUICK, "--run-dir", folder, "--max-steps", 1, "--batch", "auto", "--devices", 1)
    assert ran.code == 0, ran.err
    assert "batch 3 (auto)" in ran.err  # there are no more images
    assert open_run(folder).config["train"]["batch"] == 3
    ran = spt("train", "--resume", folder, "--batch", "auto", "--max-steps", 1)
    assert ran.code == 0, ran.err
    assert "(auto)" not in ran.err


def test_a_run_that_cannot_begin_keeps_its_folder_and_is_not_the_latest(data: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(data, tmp_path / "broken")
    for image in [*broken.rglob("*.jpg"), *broken.rglob("*.png")]:
        image.write_bytes(b"no image")
    env = {"SPT_RUNS": str(tmp_path / "runs")}
    ran = spt("train", "--data", broken, *QUICK, env=env)
    assert ran.code == 3, ran.err
    assert len(list((tmp_path / "runs" / "train").glob("2*"))) == 1
    assert not (tmp_path / "runs" / "train" / "latest").is_symlink()


def test_without_anything_it_is_the_sample_with_its_own_recipe() -> None:
    ran = spt("train", "--model", "swin-nano", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert "data: built-in sample" in ran.err
    config = ran.document["config"]
    assert (config["preset"], config["model"], config["res"]) == ("sample", "swin-nano", [128, 128])
    trial = ran.document["trial"]
    assert trial["images"] == 240
    assert trial["seconds"] == pytest.approx(trial["steps"] * trial["seconds_per_step"])


def test_real_data_gets_the_papers_recipe(data: Path) -> None:
    ran = spt("config", "show", "train", "--json", "--set", f"data={data}")
    settings = {entry["key"]: entry for entry in ran.document["settings"]}
    assert settings["lr"] == {"key": "lr", "value": 0.0001, "origin": "preset detect-paper"}
    assert settings["epochs"]["value"] == 36


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--model", "spt-nanno"), 2, "spt-nano"),
        (("--lr", "-1"), 2, "lr"),
        (("--schedule", "linear"), 2, "cosine"),
        (("--preset", "papr"), 2, "no preset"),
        (("--set", "crop_prb=1"), 2, "crop-prob"),
        (("--time-limit", "soon"), 2, "3h30m"),
        (("--workers", "many"), 2, "auto"),
        (("--resume", "no-such-run"), 3, "no-such-run"),
        (("--device", "cuda:7"), 4, "cuda:7"),
        (("--devices", "two"), 2, "--devices 0,1"),
        (("--devices", "1,1"), 2, "one of its own"),
        (("--devices", "8,9", "--device", "cpu"), 4, "--devices 2 starts as many processes on the CPU"),
        (("--nodes", "2"), 2, "--rdzv HOST"),
        (("--nodes", "2", "--rdzv", "here"), 2, "not HOST:PORT"),
        (("--batch", "some"), 2, "auto"),
        (("--amp", "fp8"), 2, "fp16"),
        (("--log", "csv,wandb"), 2, "tensorboard"),
        (("--init", "no.safetensors"), 3, "no.safetensors"),
    ],
)
def test_errors_are_explained(arguments: tuple[str, ...], code: int, said: str, data: Path, tmp_path: Path) -> None:
    ran = spt("train", "--data", data, *QUICK, "--run-dir", tmp_path / "run", *arguments)
    assert ran.code == code, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "run").exists()


def test_resuming_of_itself_needs_a_folder() -> None:
    ran = spt("train", "--resume", "auto")
    assert ran.code == 2
    assert "--run-dir" in ran.err


def test_data_that_is_not_there_is_no_sample(tmp_path: Path) -> None:
    ran = spt("train", "--data", "coco", "--root", tmp_path, "--json")
    assert ran.code == 3
    assert ran.document["error"]["code"] == 3
    assert str(tmp_path) in json.dumps(ran.document["error"])


def test_a_used_folder_is_not_used_again(run: Run, data: Path) -> None:
    ran = spt("train", "--data", data, *QUICK, "--run-dir", run.home)
    assert ran.code == 4
    assert "--resume" in ran.err


@pytest.mark.slow
def test_sigterm_saves_and_exits_143(data: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ("train", "--data", data, *QUICK, "--run-dir", folder, "--set", "crop_prob=0.5", "--set", "log_every=1")
    command = [sys.executable, "-m", "sptcli", *map(str, arguments)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (folder / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors.decode()
    assert b"spt train --resume" in errors
    assert b"stopped by SIGTERM at step " in errors
    assert open_run(folder).weights.is_file()
    assert spt("train", "--resume", folder).code == 0
    final, whole = final_state(Run(folder)), final_state(run)
    assert difference(whole["checkpoint"]["model"], final["checkpoint"]["model"]) is None


def test_the_time_limit_counts_from_the_commands_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the data takes an hour here: nothing is left for steps."""
    real, clock = loop.make_trainer, time.monotonic

    def slow(*arguments: object, **named: object) -> object:
        monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: clock() + 3600))
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "make_trainer", slow)
    ran = spt("train", "--data", data, *QUICK, "--run-dir", tmp_path / "run", "--time-limit", "1h")
    assert ran.code == 0, ran.err
    assert "stopped by time limit at step 0 of 4; everything is saved" in ran.err


def test_a_leader_without_a_folder_sends_the_others_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half of a conversation of two: what the leader says is what the other hears."""
    said: list[object] = []

    def refuse() -> Run:
        raise EnvironmentFault("the run folder is not empty")

    monkeypatch.setattr(Group, "first", lambda self, value: said.append(value) or value)
    with pytest.raises(EnvironmentFault):
        _shared_home(Group(0, 2), refuse)
    monkeypatch.setattr(Group, "first", lambda self, value: said[0])
    with pytest.raises(typer.Exit) as caught:
        _shared_home(Group(1, 2), refuse)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("environ", "speaks"),
    [
        ({}, True),
        ({"RANK": "3"}, True),
        ({"RANK": "3", "WORLD_SIZE": "4"}, False),
        ({"RANK": "0", "WORLD_SIZE": "4"}, True),
    ],
)
def test_a_rank_left_over_in_the_shell_silences_nobody(
    environ: dict[str, str], speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Session().is_leader is speaks
