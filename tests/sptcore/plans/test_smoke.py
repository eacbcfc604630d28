"""Every plan ends with a table: at scale smoke on the built-in sample, and its data sets on the real samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.plans.engine import Request, reproduce
from sptcore.plans.schema import load_plan, plan_names
from tests.support.samples import samples_root


@pytest.mark.slow
@pytest.mark.parametrize("name", plan_names())
def test_every_plan_ends_with_a_table_on_the_sample(name: str, tmp_path: Path) -> None:
    plan = load_plan(name)
    report = reproduce(Request(plan, home=tmp_path / name, device="cpu"))
    assert report.stopped is None
    assert report.table.finished == len(report.table.rows) == report.trained
    main = [column for column in plan.columns if column.split(".")[0] in ("bbox", "label", "class")]
    for row in report.table.rows:
        assert any(row.cells[column].mean is not None for column in main), row.plan.key
        macs = row.cells.get("macs_g")
        assert macs is None or (macs.mean or 0) > 0, row.plan.key
    text = (tmp_path / name / "table.md").read_text()
    assert "the built-in sample" in text
    assert all(verdict.verdict == "cannot be told" for verdict in report.table.verdicts)  # one seed
    pictures = list((tmp_path / name / "pictures").rglob("*.png"))
    assert len(pictures) == plan.pictures


REAL = {
    "coco": ("table3", "spt-t"),
    "voc": ("table4", "spt"),
    "bdd100k": ("table2", "spt-t"),
    "tiny-imagenet-200": ("table5", "in-s-spt"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "chosen"), REAL.items())
def test_smoke_takes_the_real_samples(folder: str, chosen: tuple[str, str], tmp_path: Path) -> None:
    name, row = chosen
    root = samples_root(folder).parent
    report = reproduce(Request(load_plan(name), data_root=root, home=tmp_path / name, rows=(row,), device="cpu"))
    assert (report.trained, report.stopped) == (1, None)
    done = next(one for one in report.table.rows if one.plan.key == row)
    assert 0 < (done.cells["label_ratio"].mean or 0) < 100
    assert "the data given" in (tmp_path / name / "table.md").read_text()
