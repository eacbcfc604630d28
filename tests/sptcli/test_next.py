"""What a command names as the next one can be pasted into a shell as it stands, also where names hold spaces."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.support.cli import Ran, spt
from tests.support.run_folders import finished_run


def then(ran: Ran, *more: object) -> Ran:
    """Run the command that `ran` named as the next, with `more` arguments."""
    assert ran.code == 0, ran.err
    program, *arguments = shlex.split(ran.document["next"])
    assert program == "spt"
    return spt(*arguments, *more)


def test_a_report_a_profile_and_a_comparison_lead_on(tmp_path: Path) -> None:
    one, two = (finished_run(tmp_path / f"my runs {name}" / "the run") for name in "ab")
    profiled = then(spt("report", one.home, "--images", "0", "--json"), "--no-latency", "--res", "64x64", "--json")
    assert then(profiled, "--images", "0").code == 0
    assert then(spt("compare", one.home, two.home, "--json"), "--images", "0").code == 0


def test_a_list_of_plans_names_one_of_them() -> None:
    assert then(spt("reproduce", "--json"), "--dry-run", "--json").document["dry_run"]


def test_settings_written_into_a_file_are_used(tmp_path: Path) -> None:
    written = spt("config", "init", "models", "--out", tmp_path / "my settings.toml", "--json")
    assert then(written, "--json").document["schema"] == "spt.models/1"
