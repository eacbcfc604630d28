"""DynamicSwin and DAT from the command line: trained, evaluated, drawn, profiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.runs import Run
from tests.support.cli import spt
from tests.support.training import mini_data

QUICK = (
    "--preset",
    "sample",
    "--res",
    "128x128",
    "--batch",
    "2",
    "--max-steps",
    "2",
    "--device",
    "cpu",
    "--set",
    "eval_every=0",
)
MODELS = ("dynamicswin-nano", "dat-nano")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two steps of each."""
    found = {}
    for model in MODELS:
        folder = tmp_path_factory.mktemp("runs") / "run"
        ran = spt("train", "--data", data, "--model", model, *QUICK, "--set", "log_every=1", "--run-dir", folder)
        assert ran.code == 0, ran.err
        found[model] = Run(folder)
    return found


def test_dynamicswin_learns_its_ratio_and_no_labels(runs: dict[str, Run]) -> None:
    rows = [row for row in runs["dynamicswin-nano"].metrics() if "loss" in row]
    assert len(rows) == 2
    assert all(row["loss_ratio"] > 0 and row.get("loss_select", 0) == 0 for row in rows)
    assert all(0 < row["select_ratio.stage3"] < 1 for row in rows)
    assert all("loss_ratio" not in row for row in runs["dat-nano"].metrics())


@pytest.mark.parametrize("model", MODELS)
def test_it_is_evaluated(model: str, runs: dict[str, Run]) -> None:
    ran = spt("evaluate", runs[model].home, "--json")
    assert ran.code == 0, ran.err
    blocks = ran.document["blocks"]
    if model == "dat-nano":
        assert not blocks
        return
    assert [block["block"] for block in blocks] == ["stage3.block1"]
    assert blocks[0]["select_ratio"] == pytest.approx(0.7, abs=0.03)
    assert 0 < blocks[0]["label_ratio"] < 1
    assert ran.document["macs"]["actual"] < ran.document["macs"]["dense"]


def test_what_dynamicswin_selects_is_drawn(data: Path, runs: dict[str, Run], tmp_path: Path) -> None:
    home = runs["dynamicswin-nano"].home
    ran = spt("viz-selection", data, "--weights", home, "--limit", "1", "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    (image,) = ran.document["images"]
    assert Path(image["file"]).is_file()
    assert [(one["block"], one["stride"]) for one in image["blocks"]] == [("3.2", 16)]
    assert image["blocks"][0]["ratio"] == pytest.approx(0.7, abs=0.03)
    refused = spt("viz-selection", data, "--weights", runs["dat-nano"].home)
    assert refused.code == 2
    assert "no block that selects" in refused.err


@pytest.mark.parametrize("model", MODELS)
def test_it_is_profiled(model: str, runs: dict[str, Run]) -> None:
    arguments = ("--res", "128x128", "--no-latency", "--json", "--ratio", "0.1,0.3")
    fresh = spt("profile", "--model", model, *arguments)
    trained = spt("profile", "--weights", runs[model].home, *arguments)
    for ran in (fresh, trained):
        assert ran.code == 0, ran.err
        assert ran.document["miscounted"] == []
    (row, _) = fresh.document["rows"]
    dynamic = model == "dynamicswin-nano"
    assert (row["selection"], row["block_ratios"]) == (("own", [0.7]) if dynamic else ("dense", []))
    assert (row["macs_training"] > row["macs_actual"]) == dynamic
    names = {(one["model"], one["selection"]) for one in trained.document["rows"]}
    assert ("swin-nano", "dense") in names


def test_settings_of_other_models_are_refused(data: Path, tmp_path: Path) -> None:
    for model, setting, words in (
        ("dynamicswin-nano", "num_spa_blocks=3", "predictor_blocks"),
        ("dynamicswin-nano", "bypass=proj", "go together"),
    ):
        ran = spt("train", "--data", data, "--model", model, *QUICK, "--run-dir", tmp_path / "run", "--set", setting)
        assert ran.code == 2
        assert words in ran.err


def test_another_selection_than_its_own_is_refused(runs: dict[str, Run]) -> None:
    for flags in (("--gt-selection",), ("--select-ratio", "0.2")):
        for model in MODELS:
            assert spt("evaluate", runs[model].home, *flags).code == 2


def test_they_are_in_the_catalogue() -> None:
    ran = spt("models", "--json")
    assert ran.code == 0, ran.err
    assert {"dynamicswin-t", "dat-b"} <= {row["name"] for row in ran.document["models"]}
