"""A table as Markdown, CSV and JSON, each published whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sptcore import __version__
from sptcore.files import write_atomically
from sptcore.plans.table import TITLES, Cell, Table

SCHEMA = "spt.reproduce-table/1"
NOTHING = ""  # an empty cell: not measured, or not known of the paper


def write_tables(home: Path, table: Table) -> dict[str, Path]:
    """Write `table.md`, `table.csv` and `table.json` into `home`; name -> file."""
    texts = {"md": as_markdown(table), "csv": as_csv(table), "json": json.dumps(as_document(table), indent=1) + "\n"}
    files = {}
    for suffix, text in texts.items():
        files[f"table.{suffix}"] = home / f"table.{suffix}"
        write_atomically(files[f"table.{suffix}"], text)
    return files


def used_columns(table: Table) -> list[str]:
    """Columns in which some row has a figure, of its own or of the paper."""
    return [
        column
        for column in table.plan.columns
        if any(row.cells[column].mean is not None or row.cells[column].paper is not None for row in table.rows)
    ]


def as_text(cell: Cell) -> str:
    """`22.41 ± 0.12`, `22.41` of one seed, nothing without a run."""
    if cell.mean is None:
        return NOTHING
    return f"{number(cell.mean)}" if cell.spread is None else f"{number(cell.mean)} ± {number(cell.spread)}"


def number(value: float) -> str:
    """Two decimals; three significant digits where that says nothing."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def table_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: the row, its model and data, seeds, then each column with the paper's beside it."""
    columns = used_columns(table)
    with_paper = {column for column in columns if any(row.cells[column].paper is not None for row in table.rows)}
    header = ["row", "model", "data", "seeds"]
    for column in columns:
        header += [title(column)] + ([f"{title(column)}, paper"] if column in with_paper else [])
    rows = []
    for row in table.rows:
        line = [row.plan.label, row.model, row.plan.data, str(len(row.seeds))]
        for column in columns:
            paper = row.cells[column].paper
            line += [as_text(row.cells[column])]
            line += [NOTHING if paper is None else f"{paper:g}"] if column in with_paper else []
        rows.append(line)
    return header, rows


def title(column: str) -> str:
    """A column's name for people."""
    return TITLES.get(column, column)


def as_markdown(table: Table) -> str:
    """The table with what differs, the trends, the notes and the sources under it."""
    plan = table.plan
    header, rows = table_rows(table)
    lines = [f"# {plan.title}, scale {table.scale}", "", *_grid(header, rows), ""]
    lines += [
        "Scores and ratios in per cent, mean ± sample standard deviation over seeds. MACs by formula in the paper's "
        "convention, of a forward pass in training, at the select ratios that were measured. An empty cell: not "
        "measured, or not known of the paper.",
        "",
    ]
    lines += _section("What differs from the paper", table.differs)
    lines += _section("Trends", [f"{one.text}: **{one.verdict}** — {one.why}" for one in table.verdicts])
    lines += _section("Notes", plan.notes)
    lines += _section("Sources of the paper's figures", _sources(table))
    devices = dict.fromkeys(device for row in table.rows for device in row.devices)
    return "\n".join([*lines, f"spt {__version__}, on {', '.join(devices) or 'nothing yet'}", ""])


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in every]


def _section(heading: str, lines: Sequence[str]) -> list[str]:
    return [f"## {heading}", "", *(f"- {line}" for line in lines), ""] if lines else []


def _sources(table: Table) -> list[str]:
    groups: dict[str, list[str]] = {}
    for row in table.rows:
        if row.plan.paper:
            groups.setdefault(row.plan.paper_source, []).append(row.plan.label)
    return [f"{', '.join(labels)}: {source}" for source, labels in groups.items()]


def as_csv(table: Table) -> str:
    """One line a row; of each column mean, spread and the paper's figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = table.plan.columns
    writer.writerow(
        ["row", "label", "model", "data", "seeds"]
        + [name for column in columns for name in (column, f"{column}.spread", f"{column}.paper")]
    )
    for row in table.rows:
        line: list[Any] = [row.plan.key, row.plan.label, row.model, row.plan.data, len(row.seeds)]
        for column in columns:
            cell = row.cells[column]
            line += [NOTHING if value is None else f"{value:.6g}" for value in (cell.mean, cell.spread, cell.paper)]
        writer.writerow(line)
    return text.getvalue()


def as_document(table: Table) -> dict[str, Any]:
    """The table in JSON types, schema `spt.reproduce-table/1`."""
    return {
        "schema": SCHEMA,
        "tool": f"spt {__version__}",
        "plan": table.plan.name,
        "title": table.plan.title,
        "scale": table.scale,
        "columns": list(table.plan.columns),
        "rows": [
            {
                "row": row.plan.key, "label": row.plan.label, "model": row.model, "data": row.plan.data,
                "seeds": list(row.seeds), "devices": list(row.devices), "paper_source": row.plan.paper_source,
                "cells": {column: asdict(cell) for column, cell in row.cells.items()},
            }
            for row in table.rows
        ],
        "sets": table.sets,
        "differs": table.differs,
        "trends": [asdict(verdict) for verdict in table.verdicts],
        "notes": list(table.plan.notes),
    }  # fmt: skip
