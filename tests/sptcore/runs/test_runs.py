"""Run folders: made fresh, found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sptcore.errors import DataError, EnvironmentFault, IntegrityError
from sptcore.runs import Run, forget_unbegun, new_run, open_run, runs_root, save_weights


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPT_RUNS", str(tmp_path / "runs"))


def finished(run: Run) -> Run:
    (run.home / "config.toml").write_text('[train]\nmodel = "spt-nano"\n')
    run.make_latest("train")
    return run


def test_a_run_is_named_by_time_model_and_data_and_latest_leads_to_it() -> None:
    first = finished(new_run("train", "spt-t-my data/x", argv=["spt", "train", "--data", "my data"]))
    assert first.home.parent == runs_root() / "train"
    assert first.home.name.endswith("-spt-t-my-data-x")
    assert (first.home / "command.txt").read_text() == "spt train --data 'my data'\n"
    assert json.loads((first.home / "env.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]
    second = finished(new_run("train", "spt-t-my data/x"))
    assert second.home != first.home
    assert open_run("last").home == second.home.resolve()
    third = new_run("train", "spt-t-my data/x")  # never began
    assert third.home.parent == second.home.parent
    assert open_run("last").home == second.home.resolve()
    assert open_run(first.home.name).home == first.home
    assert open_run(first.home).config == {"train": {"model": "spt-nano"}}


def test_a_folder_with_something_in_it_is_not_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    new_run("train", "x", folder=folder)
    with pytest.raises(EnvironmentFault, match="not empty"):
        new_run("train", "x", folder=folder)


def test_a_run_that_never_began_leaves_its_folder_free_and_nothing_else_does(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    forget_unbegun(folder)
    new_run("train", "x", folder=folder)
    forget_unbegun(folder)
    run = new_run("train", "x", folder=folder)
    (run.checkpoints / "step-1.pt").write_bytes(b"x")
    forget_unbegun(folder)
    assert (run.checkpoints / "step-1.pt").is_file()
    (run.checkpoints / "step-1.pt").unlink()
    (folder / "notes.txt").write_text("mine")
    forget_unbegun(folder)
    assert (folder / "env.json").is_file()


def test_a_place_that_cannot_be_written_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault):
        new_run("train", "x", folder=tmp_path / "file" / "run")


def test_nothing_there_says_where_we_looked() -> None:
    with pytest.raises(DataError) as caught:
        open_run("last")
    assert "latest" in str(caught.value.where)
    with pytest.raises(DataError) as caught:
        open_run("no-such-run")
    assert "no-such-run" in str(caught.value.where)


def test_weights_of_a_run_are_best_then_ema_then_last(tmp_path: Path) -> None:
    run = finished(new_run("train", "x"))
    with pytest.raises(DataError, match="no weights"):
        _ = run.weights
    for name in ("last", "ema", "best"):
        save_weights(run.home / "weights" / f"{name}.safetensors", {"a": torch.ones(1)}, {"task": "detect"})
        assert run.weights.stem == name
    alone = open_run(run.weights)
    assert alone.weights == run.weights
    assert alone.info.model == {"task": "detect"}
    with pytest.raises(DataError, match="not a run folder"):
        _ = alone.home


def test_a_broken_config_is_an_integrity_error() -> None:
    run = new_run("train", "x")
    (run.home / "config.toml").write_text("model = ")
    with pytest.raises(IntegrityError):
        _ = Run(run.home).config
