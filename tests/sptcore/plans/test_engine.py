"""The walk through a plan: finished rows stay, stopped ones go on, also elsewhere; other settings are refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from sptcore.errors import DataError, EnvironmentFault, IntegrityError, UsageError
from sptcore.plans.engine import Reproduction, Request, reproduce
from sptcore.plans.estimate import estimate
from sptcore.plans.folder import Folder
from sptcore.progress import Silent
from tests.sptcore.plans.miniplan import MINI, mini_request
from tests.support.miniatures import mini_coco


class Stopper(Silent):
    """Sends SIGTERM at the N-th step of training."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.training = False

    def start(self, title: str, total: int | None, **more: object) -> None:
        self.training = title.startswith("training")

    def advance(self, steps: int = 1, **fields: object) -> None:
        if self.training and steps:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)


class Crasher(Stopper):
    """Dies at the N-th step of training, as a process does that is killed: nothing is saved any more."""

    def advance(self, steps: int = 1, **fields: object) -> None:
        self.left -= bool(self.training and steps)
        if self.left == 0:
            raise ConnectionAbortedError


def figures(report: Reproduction) -> list[Any]:
    """Every number of the table that must repeat."""
    return [[dataclasses.asdict(cell) for cell in row.cells.values()] for row in report.table.rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    return reproduce(mini_request(tmp_path_factory.mktemp("whole") / "mini"))


def test_leaves_tables_and_a_run_folder_a_row(undisturbed: Reproduction) -> None:
    home = undisturbed.folder
    assert (undisturbed.trained, undisturbed.found, undisturbed.stopped) == (2, 0, None)
    swin, spt = undisturbed.table.rows
    assert swin.cells["label.mAP"].paper == 22.4
    assert swin.cells["select_ratio"].mean is None
    assert spt.cells["select_ratio"].mean == 100  # an untrained gate selects everything
    assert 0 < (spt.cells["label_ratio"].mean or 0) < 100
    assert spt.cells["params_m"].mean is not None
    for name in ("table.md", "table.csv", "table.json", "plan.toml", "plan.json"):
        assert (home / name).is_file()
    assert (home / "plan.toml").read_text() == MINI
    macs = json.loads((home / "rows/spt/seed-0/result.json").read_text())["macs"]
    assert macs["macs_at_paper"] < macs["macs"]
    assert macs["backbone_actual"] <= macs["backbone"]
    assert {"macs", "macs_eval", "macs_actual", "backbone", "backbone_actual"} < set(macs)


def test_what_is_finished_is_not_trained_again(undisturbed: Reproduction) -> None:
    before = (undisturbed.folder / "rows/spt/seed-0/weights/last.safetensors").stat().st_mtime_ns
    again = reproduce(mini_request(undisturbed.folder))
    assert (again.trained, again.found) == (0, 2)
    assert figures(again) == figures(undisturbed)
    assert (undisturbed.folder / "rows/spt/seed-0/weights/last.safetensors").stat().st_mtime_ns == before


def test_a_lost_result_is_made_again_from_the_run(undisturbed: Reproduction, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(undisturbed.folder, home, symlinks=True)
    (home / "rows/spt/seed-0/result.json").unlink()
    again = reproduce(mini_request(home))
    assert (again.trained, again.found) == (1, 1)
    assert figures(again) == figures(undisturbed)


@pytest.mark.parametrize("step", [1, 6])
def test_a_stopped_walk_goes_on_as_if_nothing_had_happened(
    step: int, undisturbed: Reproduction, tmp_path: Path
) -> None:
    stopped = reproduce(mini_request(tmp_path / "mini"), progress=Stopper(step))
    assert stopped.stopped == "SIGTERM"
    assert stopped.table.finished == (step > 4)
    home = (tmp_path / "mini").rename(tmp_path / "moved")  # another place: nothing in it says where it lay
    whole = reproduce(mini_request(home))
    assert whole.stopped is None
    assert whole.trained + whole.found == 2
    assert figures(whole) == figures(undisturbed)


def test_a_walk_that_died_goes_on_from_the_last_checkpoint(undisturbed: Reproduction, tmp_path: Path) -> None:
    with pytest.raises(ConnectionAbortedError):
        reproduce(mini_request(tmp_path / "mini"), progress=Crasher(8))
    assert (tmp_path / "mini/table.md").is_file()  # of the first row, which was finished
    whole = reproduce(mini_request(tmp_path / "mini"))
    assert (whole.trained, whole.found) == (1, 1)
    assert "resumed at step 2" in (tmp_path / "mini/rows/spt/seed-0/log.txt").read_text()
    assert figures(whole) == figures(undisturbed)


def test_a_run_killed_before_its_settings_were_written_begins_anew(tmp_path: Path) -> None:
    left = tmp_path / "mini/rows/swin/seed-0/checkpoints"
    request = mini_request(tmp_path / "mini", rows=("swin",))
    (tmp_path / "mini").mkdir()
    Folder(tmp_path / "mini").freeze(request.plan, "smoke", MINI)
    left.mkdir(parents=True)
    assert reproduce(request).trained == 1


def test_more_seeds_and_other_rows_may_follow(tmp_path: Path) -> None:
    first = reproduce(mini_request(tmp_path / "mini", rows=("swin",)))
    assert [len(row.seeds) for row in first.table.rows] == [1, 0]
    more = reproduce(mini_request(tmp_path / "mini", rows=("swin",), seeds=2))
    assert (more.trained, more.found) == (1, 1)
    cell = more.table.rows[0].cells["label.mAP"]
    assert cell.seeds == 2
    assert cell.spread is not None


def test_other_settings_are_refused(undisturbed: Reproduction) -> None:
    home = undisturbed.folder
    for old, new, message in [
        ("epochs = 2", "epochs = 3", "row swin: epochs was 2, now 3"),
        ('max_ratio = "0.9"', 'max_ratio = "0.8"', "the cut of small"),
        ("limit = 6", "limit = 7", "limit was 6, now 7"),
        ('key = "swin"', 'key = "swon"', "row swin is gone"),
    ]:
        assert old in MINI
        with pytest.raises(UsageError, match=message):
            reproduce(mini_request(home, MINI.replace(old, new, 1)))
    same = MINI.replace("tiny", "said otherwise").replace('device = "cpu"', "")
    assert reproduce(mini_request(home, same)).trained == 0  # words may change


def test_real_data_in_place_of_the_sample_is_refused(undisturbed: Reproduction, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(undisturbed.folder, home, symlinks=True)
    shutil.rmtree(home / "data")
    mini_coco(tmp_path / "root" / "coco")
    with pytest.raises(UsageError, match="was the sample"):
        reproduce(mini_request(home, data_root=tmp_path / "root"))


def test_moves_with_its_data_and_notices_other_annotations(tmp_path: Path) -> None:
    mini_coco(tmp_path / "here" / "coco")
    request = mini_request(tmp_path / "mini", data_root=tmp_path / "here")
    stopped = reproduce(request, progress=Stopper(1))
    assert stopped.stopped == "SIGTERM"
    there = (tmp_path / "here").rename(tmp_path / "there")
    home = (tmp_path / "mini").rename(tmp_path / "elsewhere")
    whole = reproduce(mini_request(home, data_root=there))
    assert (whole.trained, whole.stopped) == (2, None)
    assert "the data given" in (home / "table.md").read_text()

    annotations = there / "coco/annotations/instances_val2017.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["category_id"] = content["categories"][-1]["id"]
    content["annotations"].pop()
    annotations.write_text(json.dumps(content))
    shutil.rmtree(home / "data")
    with pytest.raises(IntegrityError, match="not those that this folder was started with"):
        reproduce(mini_request(home, data_root=there))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(EnvironmentFault, match="something else"):
        reproduce(mini_request(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_missing_data_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    home = tmp_path / "mini"
    with pytest.raises(DataError, match=r"coco \(small\)") as caught:
        reproduce(mini_request(home, scale="small", data_root=tmp_path))
    assert "cocodataset.org" in (caught.value.hint or "")
    assert "--data-root" in (caught.value.hint or "")
    assert not home.exists()


def test_rows_and_scales_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no row 'sqt'") as caught:
        reproduce(mini_request(tmp_path / "mini", rows=("sqt",)))
    assert "spt" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no scale 'paper'"):
        reproduce(mini_request(tmp_path / "mini", scale="paper"))


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_an_estimate_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = mini_request(tmp_path / "mini")
    found = estimate(request)
    assert tree(tmp_path) == set()
    assert [row.row for row in found.rows] == ["swin", "spt"]
    for row in found.rows:
        assert (row.images, row.at_most, row.steps, row.finished) == (6, False, 4, 0)
        assert min(row.seconds, row.disk_mb, row.gmacs, row.params_m) > 0
    assert not found.missing


def test_an_estimate_counts_what_is_left_and_names_what_is_missing(undisturbed: Reproduction, tmp_path: Path) -> None:
    done = estimate(mini_request(undisturbed.folder, seeds=2))
    assert [(row.finished, row.steps) for row in done.rows] == [(1, 4), (1, 4)]
    request: Request = mini_request(tmp_path / "mini", scale="small", data_root=tmp_path)
    found = estimate(dataclasses.replace(request, rows=("swin",)))
    assert (found.rows[0].images, found.rows[0].at_most) == (100, True)
    assert "cocodataset.org" in found.missing["small"]
