from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sptcore.errors import UsageError
from sptcore.profiling.job import ProfileReport, ProfileRow
from sptcore.profiling.subjects import Setting
from sptcore.profiling.tables import check_suffix, grids, to_dict, write_report
from sptcore.profiling.timing import Timing


def timing(seconds: float) -> Timing:
    return Timing("x", (seconds,) * 3, (2 * seconds,) * 3, (None,) * 3)


def row(
    model: str, selection: str, ratios: tuple[float, ...], seconds: float | None, scope: str = "backbone"
) -> ProfileRow:
    return ProfileRow(
        scope=scope,
        model=model,
        selection=selection,
        block_ratios=ratios,
        params=2_500_000,
        macs_actual=4_000_000_000,
        macs_eq9=5_000_000_000,
        macs_counted=4_000_000_000,
        breakdown={"qkv": (3_000_000_000, 4_000_000_000), "ffn": (1_000_000_000, 1_000_000_000)},
        latency=None if seconds is None else timing(seconds),
        peak_bytes=None if seconds is None else 3 * 2**20,
    )


REPORT = ProfileReport(
    Setting("backbone", 800, 1280, batch=2),
    (
        row("swin-t", "dense", (), 0.4),
        row("spt-t", "0.25", (0.25, 0.25), 0.2),
        row("mine", "measured", (0.5, 0.1), 0.1),
        row("swin-t", "dense", (), None, "detector"),
    ),
    {"device": "x"},
)


def test_figures_are_per_image_and_speed_is_against_the_dense_model() -> None:
    backbone, detector = grids(REPORT)
    found = [dict(zip(backbone.columns, cells, strict=True)) for cells in backbone.rows]
    assert backbone.title == "backbone at 1280 x 800, batch 2"
    assert [line["select ratio"] for line in found] == ["dense", "0.25", "measured 0.300"]
    assert [line["GMACs"] for line in found] == [2.0, 2.0, 2.0]
    assert [line["GMACs Eq. 9"] for line in found] == [2.5, 2.5, 2.5]
    assert [line["vs swin-t"] for line in found] == ["1.00x", "2.00x", "4.00x"]
    assert [line["p50 ms"] for line in found] == [400.0, 200.0, 100.0]
    assert [line["img/s"] for line in found] == [5.0, 10.0, 20.0]
    assert [line["CPU ms"] for line in found] == [800.0, 400.0, 200.0]
    assert found[0]["peak MiB"] == 3.0
    slow = replace(REPORT, rows=(row("swin-t", "dense", (), 12.3456),))
    assert dict(zip(grids(slow)[0].columns, grids(slow)[0].rows[0], strict=True))["p50 ms"] == 12346
    assert "train ms" not in backbone.columns
    assert detector.columns == ["model", "select ratio", "params M", "GMACs", "GMACs Eq. 9"]


def test_notes_stand_below_the_table_and_models_refer_to_them() -> None:
    noted = [replace(one, note=note) for one, note in zip(REPORT.rows, ("", "a bound", "other", ""), strict=True)]
    again = replace(REPORT.rows[1], model="spt-gt", note="a bound")
    report = replace(REPORT, rows=(*noted, again))
    backbone, detector = grids(report)
    assert [cells[0] for cells in backbone.rows] == ["swin-t", "spt-t [1]", "mine [2]", "spt-gt [1]"]
    assert backbone.footnotes == ("[1] a bound", "[2] other")
    assert "note" not in backbone.columns
    assert (detector.rows[0][0], detector.footnotes) == ("swin-t", ())
    assert grids(REPORT)[0].footnotes == ()


def test_a_markdown_file_has_the_notes_below_its_table(tmp_path: Path) -> None:
    rows = (REPORT.rows[0], replace(REPORT.rows[1], note="a bound"))
    write_report(replace(REPORT, rows=rows), tmp_path / "p.md")
    text = (tmp_path / "p.md").read_text()
    assert text.endswith("|\n\n[1] a bound\n")
    assert "| spt-t [1] |" in text
    write_report(replace(REPORT, rows=REPORT.rows), tmp_path / "p.md")
    assert "[1]" not in (tmp_path / "p.md").read_text()


def test_a_miscount_gets_its_column() -> None:
    wrong = replace(REPORT, rows=(replace(REPORT.rows[0], macs_counted=1), *REPORT.rows[1:]))
    assert "counted" in grids(wrong)[0].columns
    assert "counted" not in grids(REPORT)[0].columns


def test_the_breakdown_shows_both_counts_where_they_differ() -> None:
    table = grids(REPORT, by="component")[2]
    assert table.columns == ["component", "swin-t dense", "spt-t 0.25", "mine measured"]
    assert table.rows == [["qkv", *["1.500 (2.000)"] * 3], ["ffn", *["0.500"] * 3]]


def test_files(tmp_path: Path) -> None:
    for suffix in ("json", "md", "csv"):
        write_report(REPORT, tmp_path / f"p.{suffix}", by="component")
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(json.dumps(to_dict(REPORT)))
    lines = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [line["model"] for line in lines] == ["swin-t", "spt-t", "mine", "swin-t"]
    assert lines[1]["latency_p50_s"] == "0.2"
    assert lines[3]["latency_p50_s"] == ""
    assert (tmp_path / "p.md").read_text().count("## ") == 4
    assert "| spt-t | 0.25 |" in (tmp_path / "p.md").read_text()


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv, \.md, \.json"):
        check_suffix(tmp_path / "p.xlsx")


def test_a_small_model_keeps_three_digits() -> None:
    small = replace(REPORT.rows[0], macs_actual=2 * 78_912_345, macs_eq9=0, breakdown={"gate": (2 * 12_345, 0)})
    table, split = grids(replace(REPORT, rows=(small,)), by="component")
    line = dict(zip(table.columns, table.rows[0], strict=True))
    assert (line["GMACs"], line["GMACs Eq. 9"]) == (0.0789, 0.0)
    assert split.rows == [["gate", "1.23e-05 (0.000)"]]
