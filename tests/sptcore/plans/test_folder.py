"""The folder of a reproduction: damaged records are told, results come back as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sptcore.errors import EnvironmentFault, IntegrityError
from sptcore.plans.folder import Folder, opened
from sptcore.plans.outcome import Outcome
from sptcore.progress import SILENT
from tests.sptcore.plans.miniplan import MINI, mini_request
from tests.sptcore.plans.test_trends import outcome


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = outcome(3, ap=0.25)
    made.write(tmp_path / "result.json")
    assert Outcome.read(tmp_path / "result.json") == made


@pytest.mark.parametrize("content", ["{", "[]", '{"row": "a"}', "null"])
def test_a_damaged_result_is_told_with_its_place(content: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    home = folder.run_home("spt", 0)
    home.mkdir(parents=True)
    (home / "result.json").write_text(content)
    with pytest.raises(IntegrityError) as caught:
        folder.outcomes("spt")
    assert caught.value.where == str(home / "result.json")


@pytest.mark.parametrize("content", ["{", '{"plan": "mini"}', '{"schema": "spt.reproduce/9"}', "3"])
def test_a_damaged_or_newer_record_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(IntegrityError):
        _ = Folder(tmp_path).frozen


def test_the_record_is_written_once_and_holds_no_path(tmp_path: Path) -> None:
    request = mini_request(tmp_path)
    folder = Folder(tmp_path)
    folder.freeze(request.plan, "smoke", MINI)
    first = (tmp_path / "plan.json").read_bytes()
    folder.freeze(request.plan, "smoke", "another text")
    assert (tmp_path / "plan.json").read_bytes() == first
    assert (tmp_path / "plan.toml").read_text() == MINI
    assert str(tmp_path) not in first.decode()
    assert set(json.loads(first)["rows"]) == {"swin", "spt"}


def test_seeds_are_in_order_and_unfinished_ones_left_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for seed in (10, 2, 0):
        folder.run_home("spt", seed).mkdir(parents=True)
        outcome(seed).write(folder.run_home("spt", seed) / "result.json")
    folder.run_home("spt", 5).mkdir()
    assert [one.seed for one in folder.outcomes("spt")] == [0, 2, 10]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    home = tmp_path / "mini"
    with (
        opened(home, SILENT),
        pytest.raises(EnvironmentFault, match="is being built by"),
        opened(home, SILENT),
    ):
        pass
    with opened(home, SILENT) as folder:
        assert folder.home == home
