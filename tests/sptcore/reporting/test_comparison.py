from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from sptcore.errors import UsageError
from sptcore.reporting.comparison import Comparison, compare, grid, to_csv, to_dict, to_html, to_markdown
from sptcore.runs import Run
from tests.support.run_folders import finished_run
from tests.support.weights import nano_weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        finished_run(folder / "one", aps=(0.2, 0.3), ratio=0.5, seed=1),
        finished_run(folder / "two", aps=(0.2, 0.35), ratio=0.25, lr=1e-3),
        finished_run(folder / "dense", aps=(0.4,), variant="swin-nano"),
    ]


@pytest.fixture(scope="module")
def found(runs: list[Run]) -> Comparison:
    return compare(runs, ("ap", "macs", "ratio", "params", "time"))


def test_figures_and_their_differences_from_the_first_run(found: Comparison) -> None:
    assert found.figures["box AP"] == [0.3, 0.35, 0.4]
    assert found.deltas("box AP") == pytest.approx([0.0, 0.05, 0.1])
    assert found.figures["ratio, stage 3"] == [0.5, 0.25, None]
    assert found.deltas("ratio, stage 3") == [0.0, -0.25, None]
    one, two, dense = found.figures["GMACs"]
    assert two < one < dense
    assert "AP75" not in found.figures  # in no run


def test_only_settings_that_differ_are_listed(found: Comparison) -> None:
    assert found.differences["seed"] == ["1", "0", "0"]
    assert found.differences["model"] == ["spt-nano", "spt-nano", "swin-nano"]
    assert found.differences["backbone.num_spa_blocks"] == ["4", "4", "0"]
    assert "lr" in found.differences
    assert "weight_decay" not in found.differences


def test_the_table_and_its_files_agree(found: Comparison) -> None:
    columns, rows = grid(found)
    assert columns == ["", "one", "two", "dense"]
    ap = next(row for row in rows if row[0] == "box AP")
    assert ap == ["box AP", "0.3", "0.35 (+0.05)", "0.4 (+0.1)"]
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [line["box AP"] for line in lines] == ["0.3", "0.35", "0.4"]
    assert "| box AP | 0.3 | 0.35 (+0.05) | 0.4 (+0.1) |" in to_markdown(found)
    assert to_dict(found)["runs"][1]["deltas"]["box AP"] == pytest.approx(0.05)  # type: ignore[index]


def test_the_page_has_the_accuracy_cost_plot_and_curves(found: Comparison) -> None:
    html = to_html(found)
    assert html.count("<svg") >= 4
    assert "Accuracy against cost" in html
    assert not re.search(r'(?:src|href)="(?!data:)', html)


def test_speeds_are_measured_when_asked_for(runs: list[Run]) -> None:
    speeds = compare(runs, ("fps",)).figures["backbone img/s"]
    assert all(speed is not None and speed > 0 for speed in speeds)


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    files = [nano_weights(tmp_path / folder / "nano.safetensors") for folder in "ab"]
    assert compare([Run(None, file) for file in files]).names == ["nano (1)", "nano (2)"]


def test_what_cannot_be_compared(runs: list[Run]) -> None:
    with pytest.raises(UsageError, match="one run alone"):
        compare(runs[:1])
    with pytest.raises(UsageError, match="no metric 'apps'"):
        compare(runs, ("apps",))
