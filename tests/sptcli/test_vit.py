"""Plain ViTs from the command line: trained, evaluated, drawn, profiled, in detection on the simple feature pyramid."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import ANY

import pytest

from sptcore.reporting.facts import read_facts
from sptcore.runs import Run
from tests.support.cli import spt
from tests.support.training import mini_data

FAMILIES = ("vit", "vit-gt", "dynamicvit", "evit")
QUICK = ("--res", "128x128", "--batch", "2", "--max-steps", "2", "--device", "cpu", "--set", "eval_every=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps of the nano model of each family."""
    folder, model = tmp_path_factory.mktemp("runs") / "run", f"{request.param}-nano"
    ran = spt(
        "train", "--data", data, "--preset", "sample", "--model", model, *QUICK, "--set", "log_every=1",
        "--run-dir", folder,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return Run(folder)


def family(run: Run) -> str:
    return str(run.config["train"]["model"]).removesuffix("-nano")


def test_its_losses_are_those_of_its_kind(run: Run) -> None:
    rows = [row for row in run.metrics() if "loss" in row]
    assert len(rows) == 2
    for row in rows:
        assert (row.get("loss_ratio", 0) > 0) == (family(run) == "dynamicvit")
        assert row.get("loss_select", 0) == 0
        assert ("select_ratio.stage3" in row) == (family(run) != "vit")
    if family(run) == "evit":
        assert rows[0]["select_ratio.stage3"] == 1  # the keep rate begins at 1


def test_it_is_evaluated_as_it_selects(run: Run) -> None:
    ran = spt("evaluate", run.home, "--json")
    assert ran.code == 0, ran.err
    blocks, macs = ran.document["blocks"], ran.document["macs"]
    if family(run) == "vit":
        assert blocks == []
        assert 0 < macs["actual"] == macs["eq9"] == macs["dense"]
        return
    assert 0 < macs["actual"] < macs["dense"]
    if family(run) == "vit-gt":
        assert [one["block"] for one in blocks] == [f"stage3.block{number}" for number in range(6)]
        assert all(one["select_ratio"] == one["label_ratio"] for one in blocks)
        assert "upper bound" in spt("evaluate", run.home).out
    else:
        assert [one["block"] for one in blocks] == ["stage3.block1", "stage3.block3"]
        assert [one["select_ratio"] for one in blocks] == pytest.approx([0.7, 0.49], abs=0.03)


def test_what_cannot_be_changed_is_said(run: Run) -> None:
    for flag in (("--gt-selection",), ("--select-ratio", "0.5"), ("--packing", "stream")):
        ran = spt("evaluate", run.home, *flag)
        if (family(run), flag[0]) == ("vit-gt", "--gt-selection"):
            assert ran.code == 0, ran.err
        else:
            assert ran.code == 2
            assert flag[0] in ran.err


def test_what_it_selects_is_drawn(run: Run, data: Path, tmp_path: Path) -> None:
    ran = spt("viz-selection", data, "--weights", run.home, "--limit", "1", "--out", tmp_path / "out", "--json")
    if family(run) == "vit":
        assert ran.code == 2
        assert "no block that selects" in ran.document["error"]["message"]
        return
    assert ran.code == 0, ran.err
    (image,) = ran.document["images"]
    assert Path(image["file"]).is_file()
    assert {block["stride"] for block in image["blocks"]} == {16}


def test_it_is_profiled_and_counted_exactly(run: Run) -> None:
    ran = spt("profile", "--model", f"{family(run)}-nano", "--res", "256x192", "--no-latency", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["miscounted"] == []
    selections = [row["selection"] for row in ran.document["rows"] if row["scope"] == "backbone"]
    forced = {"vit": ["dense"], "vit-gt": ["0.1", "0.22", "0.3", "0.5", "1"]}
    assert selections == forced.get(family(run), ["own"])


def test_trained_weights_are_profiled_beside_vit(run: Run) -> None:
    ran = spt("profile", "--weights", run.home, "--ratio", "0.3", "--res", "128x128", "--no-latency", "--json")
    assert ran.code == 0, ran.err
    found = {(row["model"], row["selection"]) for row in ran.document["rows"]}
    own = {"vit": {"dense"}, "vit-gt": {"labels", "0.3"}}.get(family(run), {"own"})
    beside = set() if family(run) == "vit" else {("vit-nano", "dense")}
    assert found == beside | {(run.name, selection) for selection in own}
    assert ran.document["miscounted"] == []


def test_a_run_of_it_makes_a_report(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert spt("report", run.home, "--out", page, "--images", "1").code == 0
    assert f"{family(run)}-nano" in page.read_text()
    ratio = read_facts(run).cost.stages[0].select_ratio
    assert ratio == (pytest.approx(0.595, abs=0.02) if family(run) in ("dynamicvit", "evit") else ANY)
