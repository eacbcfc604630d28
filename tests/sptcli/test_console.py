"""Printing: data stays literal, JSON is one plain document, tables read well."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sptcli.console import cell_text, dump_json, pairs, print_views, printable, shared_out, table, tables
from sptcore.data.records import Category


@dataclass
class Row:
    """A result row."""

    name: str
    path: Path
    ratio: Fraction


def shown(*views: object) -> str:
    stream = io.StringIO()
    print_views(views, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a[red]b", "a[red]b"), ("a\x1b[2Jb", "a\\x1b[2Jb"), ("a\nb", "a\\nb"), ("ä→", "ä→"),
     ("\udce4", "\\udce4"), ("\u202e", "\\u202e")],
)  # fmt: skip
def test_printable_escapes_what_moves_the_cursor(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_tables_print_data_literally_and_numbers_to_the_right() -> None:
    text = shown(table(["name", "AP"], [["[bold]x[/bold]:smile:", 0.123456], ["y", None]], title="[t]"))
    assert "[bold]x[/bold]:smile:" in text
    assert "[t]" in text
    assert " 0.1235" in text
    assert text.splitlines()[-2].endswith("     -") or "     -" in text


def test_a_narrow_screen_breaks_tables_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty columns: numbers and headings stay whole, the text gives way; a wide screen breaks nothing."""
    names = ["stage", "stride", "tokens", "channels", "select and pack", "params M", "GMACs r=1", "from"]
    origin = "the words of a long sentence that has to give way"
    view = [[3, 16, "320x200", 128, "12 of 18", 0.018881, 1.2789, origin]]
    monkeypatch.setenv("COLUMNS", "80")
    narrow = shown(table(names, view))
    assert max(map(len, narrow.splitlines())) <= 80
    words = narrow.split()
    for word in ("stage", "stride", "tokens", "channels", "320x200", "0.01888", "1.279", *origin.split()):
        assert word in words
    monkeypatch.setenv("COLUMNS", "200")
    assert origin in shown(table(names, view))


def test_a_screen_too_narrow_for_a_table_gets_a_block_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty columns: `field: value` lines broken between words; a table that fits them stays a table."""
    fields = ["", "select ratio", "params M", "GMACs", "GMACs r=1", "GMACs r=.25", "from"]
    rows = [["spt-nano", "dense", 1.58, 4.934, 4.111, None, "ours, for the built-in sample"],
            ["swin-tiny", "", 27.5, 91.88, 91.88, 0.5, "Swin Transformer"]]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "40")
    blocks = shown(table(fields, rows, title="models at 64 x 64"))
    assert [line.rstrip() for line in blocks.splitlines()] == [
        "models at 64 x 64", "",
        "spt-nano", "select ratio: dense", "params M: 1.58", "GMACs: 4.934", "GMACs r=1: 4.111", "GMACs r=.25: -",
        "from: ours, for the built-in sample", "",
        "swin-tiny", "params M: 27.5", "GMACs: 91.88", "GMACs r=1: 91.88", "GMACs r=.25: 0.5", "from: Swin Transformer",
        "",
    ]  # fmt: skip
    small = shown(table(fields[3:5], [row[3:5] for row in rows]))
    assert "GMACs: " not in small
    assert "─" in small
    monkeypatch.setenv("COLUMNS", "100")
    wide = shown(table(fields, rows))
    assert "select ratio: " not in wide
    assert "ours, for the built-in sample" in wide


def test_a_wide_table_comes_in_parts_with_its_first_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["model", "ratio", *(f"figure-{number}" for number in range(9))]
    rows = [["spt-nano", "0.3", *range(9)], ["swin-nano", "dense", *range(10, 19)]]
    monkeypatch.setenv("COLUMNS", "200")
    assert len(tables(names, rows, keys=2, title="t")) == 1
    monkeypatch.setenv("COLUMNS", "60")
    parts = tables(names, rows, keys=2, title="t")
    headers = [[str(column.header) for column in part.columns] for part in parts]
    assert len(parts) == 3
    assert all(header[:2] == ["model", "ratio"] for header in headers)
    assert [name for header in headers for name in header[2:]] == names[2:]
    assert [str(part.title) for part in parts] == ["t", "None", "None"]
    text = "".join(map(shown, parts))
    assert max(map(len, text.splitlines())) <= 60
    assert "model: " not in text
    monkeypatch.setenv("COLUMNS", "20")
    assert [len(part.columns) for part in tables(names[:3], [row[:3] for row in rows], keys=2)] == [3]
    assert len(tables(["model"], [["a"]])) == 1


def test_columns_give_way_widest_first_and_to_their_least() -> None:
    assert shared_out([5, 40, 20], [5, 10, 10], 50) == [5, 25, 20]
    assert shared_out([5, 40, 20], [5, 10, 10], 30) == [5, 12, 13]
    assert shared_out([5, 40, 20], [5, 10, 10], 25) == [5, 10, 10]
    assert shared_out([5, 40, 20], [5, 10, 10], 12) == [4, 4, 4]
    assert shared_out([5, 4], [5, 4], 20) == [5, 4]


def test_long_paths_are_not_cut() -> None:
    path = "/very/" + "long/" * 60
    assert path in shown(f"saved {path}")
    assert path in shown(table(["path"], [[path]])).replace("\n", "").replace(" ", "") + ""
    assert "key" in shown(pairs({"key": [1, 2]}))


def test_cells() -> None:
    assert [cell_text(value) for value in (None, True, False, 1234567, 0.5, 1e-9, "x")] == [
        "-", "yes", "no", "1234567", "0.5", "1e-09", "x",
    ]  # fmt: skip


def test_json_has_plain_types_only() -> None:
    document = {
        "row": Row("a", Path("x/y"), Fraction(1, 3)),
        "nan": float("nan"),
        "inf": [np.float32("inf")],
        "array": np.arange(3),
        "scalar": np.int64(4),
        "set": {"b", "a"},
        "tuple": (1, None, True),
        5: "ä\udce4",
        "struct": Category(3, "car"),
    }
    text = dump_json(document)
    assert text.isascii()
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "row": {"name": "a", "path": "x/y", "ratio": "1/3"},
        "nan": None,
        "inf": [None],
        "array": [0, 1, 2],
        "scalar": 4,
        "set": ["a", "b"],
        "tuple": [1, None, True],
        "5": "ä\udce4",
        "struct": {"category_id": 3, "name": "car"},
    }
