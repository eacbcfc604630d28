"""metrics.jsonl and metrics.csv."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.errors import IntegrityError
from sptcore.runs import MetricsLog, read_metrics


def filled(folder: Path) -> MetricsLog:
    log = MetricsLog(folder)
    for row in ({"step": 1, "loss": 0.1}, {"step": 2, "loss": 1 / 3, "val.AP": 0.5}, {"step": 3, "loss": float("nan")}):
        log.append(row)
    return log


def test_rows_come_back_and_the_table_has_every_column(tmp_path: Path) -> None:
    log = filled(tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[1] == {"step": 2, "loss": 1 / 3, "val.AP": 0.5}
    log.write_csv()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[:3] == ["step,loss,val.AP", "1,0.1,", f"2,{1 / 3},0.5"]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_rewinding_forgets_later_rows_and_a_torn_end(tmp_path: Path) -> None:
    log = filled(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with pytest.raises(IntegrityError, match="4"):
        read_metrics(path)
    log.rewind(2)
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_rewinding_to_a_step_whose_validation_is_due_again_forgets_that_row(tmp_path: Path) -> None:
    log, path = filled(tmp_path), tmp_path / "metrics.jsonl"
    log.append({"step": 3, "val.AP": 0.5})
    log.rewind(3, validated=True)
    assert len(read_metrics(path)) == 4
    log.rewind(3, validated=False)
    assert [sorted(row) for row in read_metrics(path) if row["step"] == 3] == [["loss", "step"]]
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
