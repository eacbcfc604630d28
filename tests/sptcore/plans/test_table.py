"""Tables: mean and spread by hand, missing cells stay empty, the three files say the same."""

from __future__ import annotations

import csv
import io
import json
import statistics
from typing import Any

import pytest

from sptcore.plans.schema import parse_plan
from sptcore.plans.table import Cell, Table, tabulate
from sptcore.plans.writing import as_csv, as_document, as_markdown, number, used_columns
from tests.sptcore.plans.miniplan import MINI
from tests.sptcore.plans.test_trends import outcome

SETS = {"small": {"origin": "sample", "split": "train", "images": {"train": 6, "val": 5}}}


def table(**runs: int) -> Table:
    """The miniature plan's table with so many seeds of each row; Swin selects nothing."""
    selecting: dict[str, dict[str, Any]] = {"swin": {"blocks": []}, "spt": {}}
    outcomes = {
        row: [outcome(seed, ap=0.2 + seed / 10, **selecting[row]) for seed in range(count)]
        for row, count in runs.items()
    }
    return tabulate(parse_plan(MINI, "mini"), "smoke", outcomes, SETS)


def test_mean_and_spread() -> None:
    cell = table(swin=3).rows[0].cells["label.mAP"]
    assert cell.mean == pytest.approx(30.0)
    assert cell.spread == pytest.approx(statistics.stdev([20, 30, 40]))
    assert (cell.seeds, cell.paper) == (3, 22.4)


def test_one_seed_has_no_spread_and_none_no_mean() -> None:
    swin, spt = table(swin=1).rows
    assert (swin.cells["label.mAP"].spread, swin.cells["label.mAP"].seeds) == (None, 1)
    assert spt.cells["label.mAP"] == Cell(None, None, 0, None)
    assert swin.cells["select_ratio"].mean is None


def test_a_figure_of_minus_one_is_no_figure() -> None:
    assert outcome(0, ap=-1.0).value("label.mAP") is None
    assert outcome(0, ap=0.5).value("label.mAP") == 50


def test_markdown_has_the_paper_beside_and_leaves_cells_empty() -> None:
    text = as_markdown(table(swin=2))
    lines = text.splitlines()
    assert "| Swin | swin-nano | small | 2 | 25.00 ± 7.07 | 22.4 |" in text
    assert (
        next(line for line in lines if line.startswith("| SPT"))
        .replace(" ", "")
        .startswith("|SPT|spt-nano|small|0||||")
    )
    assert "- tiny" in lines
    assert "- small: the built-in sample, images: 6 train, 5 val" in lines
    assert any(line.startswith("- follows: **cannot be told**") for line in lines)
    assert "- Swin: nowhere" in lines


def test_columns_nobody_has_a_figure_for_are_left_out_of_the_grid() -> None:
    assert "select_ratio" not in used_columns(table(swin=1))
    assert "select_ratio" in used_columns(table(swin=1, spt=1))


def test_csv_and_json_have_the_same_numbers() -> None:
    made = table(swin=2, spt=1)
    rows = list(csv.DictReader(io.StringIO(as_csv(made))))
    document = json.loads(json.dumps(as_document(made)))
    for line, row in zip(rows, document["rows"], strict=True):
        assert line["row"] == row["row"]
        for column, cell in row["cells"].items():
            for suffix, key in (("", "mean"), (".spread", "spread"), (".paper", "paper")):
                text = line[column + suffix]
                assert (text == "") == (cell[key] is None)
                assert not text or float(text) == pytest.approx(cell[key], rel=1e-5)


def test_small_numbers_keep_three_digits() -> None:
    assert [number(value) for value in (12.345, 0.0, 0.00123, -3.0)] == ["12.35", "0.00", "0.00123", "-3.00"]
