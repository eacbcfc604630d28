"""`spt reproduce`: the list, a plan from a file, what it refuses, an estimate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sptcore.plans.miniplan import MINI
from tests.support.cli import spt


def test_lists_the_plans_without_arguments_and_by_name() -> None:
    ran = spt("reproduce", "--json")
    assert ran.code == 0, ran.err
    plans = {plan["plan"]: plan for plan in ran.document["plans"]}
    assert len(plans) == 9
    assert plans["table1"]["rows"] == {"smoke": 3, "small": 3, "paper": 9}
    assert spt("reproduce", "list", "--json").document["plans"] == ran.document["plans"]


def test_walks_a_plan_of_one_s_own(tmp_path: Path) -> None:
    plan = tmp_path / "own.toml"
    plan.write_text(MINI)
    home = tmp_path / "home"
    call = ("reproduce", plan, "--run-dir", home, "--rows", "spt", "--device", "cpu", "--json")
    ran = spt(*call)
    assert ran.code == 0, ran.err
    assert (ran.document["trained"], ran.document["already_there"]) == (1, 0)
    swin, selecting = ran.document["table"]["rows"]
    assert (swin["seeds"], selecting["seeds"]) == ([], [0])
    assert selecting["cells"]["select_ratio"]["mean"] == 100
    assert Path(ran.document["artefacts"]["table.md"]).is_file()
    again = spt(*call)
    assert (again.document["trained"], again.document["already_there"]) == (0, 1)
    plan.write_text(MINI.replace("epochs = 2", "epochs = 3"))
    refused = spt(*call)
    assert refused.code == 2
    assert "epochs was 2, now 3" in refused.document["error"]["message"]


def test_an_estimate_is_shown_and_nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sptcore.plans.estimate.TRIAL_SIDE", 64)  # the two steps that are timed
    ran = spt("reproduce", "table1", "--scale", "paper", "--rows", "swin-t", "--seeds", "2", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.document["rows"]
    assert (row["images"], row["at_most"], row["seeds"]) == (70_000, True, 2)
    assert row["steps"] == 2 * 36 * 35_000
    assert "extrapolated by MACs" in ran.document["basis"]
    assert "bdd-data.berkeley.edu" in ran.document["missing"]["BDD100K"]
    assert list(tmp_path.iterdir()) == []
    people = spt("reproduce", "table1", "--scale", "paper", "--rows", "swin-t", "--dry-run")
    assert "at most 70000" in people.out
    assert "next:" not in people.err  # the data are missing


def test_an_estimate_s_next_step_is_the_same_command_whole() -> None:
    from sptcli.reproduce import _call
    from sptcore.plans.engine import Request
    from sptcore.plans.schema import load_plan

    plan = load_plan("table4")
    assert _call(Request(plan), "table4") == "spt reproduce table4"
    full = Request(plan, "small", data_root=Path("my data"), seeds=2, home=Path("out"), rows=("spt", "swin"))
    wanted = "spt reproduce table4 --scale small --data-root 'my data' --seeds 2 --rows spt,swin --run-dir out"
    assert _call(full, "table4") == wanted


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    ran = spt("reproduce", "tabel1", "--json")
    assert ran.code == 2
    assert "table1" in ran.document["error"]["hint"]
    missing = spt(
        "reproduce", "table3", "--scale", "small", "--data-root", tmp_path, "--run-dir", tmp_path / "r", "--json"
    )
    assert missing.code == 3
    assert "COCO-S" in missing.document["error"]["message"]
    assert not (tmp_path / "r").exists()
