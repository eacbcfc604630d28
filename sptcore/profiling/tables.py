"""A profile as rows: for the terminal, for files, for JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sptcore.errors import UsageError
from sptcore.files import write_atomically
from sptcore.profiling.job import ProfileReport, ProfileRow
from sptcore.profiling.timing import Timing

Cell = str | int | float | None
FILE_SUFFIXES = (".csv", ".md", ".json")
CSV_TIMING = ("p50_s", "p95_s", "cpu_p50_s", "rounds", "stalled_rounds")
CONVENTION = {
    "macs_actual": "multiply-accumulates of what runs: real tokens, the containers of the packing in use",
    "macs_eq9": "the paper's count: Swin's windows padded, Eq. 9 for select and pack; its FLOPs are these MACs",
    "macs_training": "multiply-accumulates of a forward pass in training, packed as in evaluation",
    "macs_counted": "torch's FlopCounterMode / 2 over whole grids",
    "flops": "2 x MACs",
}


@dataclass(frozen=True)
class Grid:
    """A table: a title, column names, rows of cells; below it, footnotes, to whose keys cells refer."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    footnotes: tuple[str, ...] = ()


def grids(report: ProfileReport, *, by: str | None = None) -> list[Grid]:
    """One table a scope, and with `by` one of its MACs by component, stage, block, part or operation."""
    scopes = list(dict.fromkeys(row.scope for row in report.rows))
    tables = [_costs(report, scope) for scope in scopes]
    return tables + ([_breakdown(report, scope, by) for scope in scopes] if by else [])


def _costs(report: ProfileReport, scope: str) -> Grid:
    """Columns that are empty in every row are left out."""
    rows = report.of_scope(scope)
    batch = report.setting.batch
    rival = next((row for row in rows if row.select_ratio is None), rows[0])
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    wanted: dict[str, list[Cell]] = {
        "model": [row.model + (f" [{notes.index(row.note) + 1}]" if row.note else "") for row in rows],
        "select ratio": [_ratio_text(row) for row in rows],
        "heads": [row.heads if report.heads not in ([], ["standard"]) and row.heads else None for row in rows],
        "params M": [round(row.params / 1e6, 2) for row in rows],
        "GMACs": [giga(row.macs_actual / batch) for row in rows],
        "GMACs Eq. 9": [giga(row.macs_eq9 / batch) for row in rows],
        "training GMACs": [_training(row, 0, batch) for row in rows],
        "training Eq. 9": [_training(row, 1, batch) for row in rows],
        "counted": [_counted(row, report, batch) for row in rows],
        f"vs {rival.model}": [_speed_up(row.latency, rival.latency) for row in rows],
        "p50 ms": [_ms(row.latency, "median") for row in rows],
        "p95 ms": [_ms(row.latency, "p95") for row in rows],
        "CPU ms": [_ms(row.latency, "cpu_median") for row in rows],
        "img/s": [None if row.latency is None else round(batch / row.latency.median, 3) for row in rows],
        "peak MiB": [_mib(row.peak_bytes) for row in rows],
        "train ms": [_ms(row.train, "median") for row in rows],
        f"train vs {rival.model}": [_speed_up(row.train, rival.train) for row in rows],
        "train peak MiB": [_mib(row.train_peak_bytes) for row in rows],
    }
    kept = {name: column for name, column in wanted.items() if any(cell is not None for cell in column)}
    cells = [list(line) for line in zip(*kept.values(), strict=True)]
    return Grid(_title(report, scope), list(kept), cells, tuple(f"[{n}] {note}" for n, note in enumerate(notes, 1)))


def _training(row: ProfileRow, which: int, batch: int) -> float | None:
    """Only where a forward pass in training runs something else is the figure worth its place."""
    return None if row.macs_training is None else giga(row.macs_training[which] / batch)


def _counted(row: ProfileRow, report: ProfileReport, batch: int) -> float | None:
    """Only where something was miscounted is the column worth its place."""
    return giga(row.macs_counted / batch) if report.miscounted else None


def giga(macs: float) -> float:
    """MACs in units of 1e9 with two decimals, and below one with three digits that count."""
    value = macs / 1e9
    return round(value, 2 if value == 0 or value >= 1 else 2 - math.floor(math.log10(value)))


def _title(report: ProfileReport, scope: str) -> str:
    setting = report.setting
    size = f"{setting.width} x {setting.height}, batch {setting.batch}"
    return f"{scope} at {size}" + ("" if setting.amp == "off" else f", {setting.amp}") + ", compiled" * setting.compiled


def _ratio_text(row: ProfileRow) -> str:
    """`dense`, the forced ratio, or a name with its mean."""
    if row.select_ratio is None or row.selection == f"{row.select_ratio:.9g}":
        return row.selection
    return row.selection if _is_number(row.selection) else f"{row.selection} {row.select_ratio:.3f}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _speed_up(mine: Timing | None, rival: Timing | None) -> str | None:
    return None if mine is None or rival is None else f"{rival.median / mine.median:.2f}x"


def _ms(timing: Timing | None, figure: str) -> float | None:
    """Milliseconds, whole ones from a second on."""
    if timing is None:
        return None
    value = 1e3 * getattr(timing, figure)
    return round(value) if value >= 1000 else round(value, 2)


def _mib(size: int | None) -> float | None:
    return None if size is None else round(size / 2**20, 1)


def _breakdown(report: ProfileReport, scope: str, by: str) -> Grid:
    """GMACs as they run, and (in brackets, where it differs) the paper's count; per image."""
    rows, batch = report.of_scope(scope), report.setting.batch
    names = list(dict.fromkeys(name for row in rows for name in row.breakdown))
    lines: list[list[Cell]] = [[name, *(_share(row, name, batch) for row in rows)] for name in names]
    return Grid(f"{scope}: GMACs by {by} (Eq. 9 in brackets)", [by, *(row.name for row in rows)], lines)


def _share(row: ProfileRow, name: str, batch: int) -> str | None:
    if name not in row.breakdown:
        return None
    actual, eq9 = row.breakdown[name]
    text = _giga_text(actual / batch)
    return text if eq9 is None or eq9 == actual else f"{text} ({_giga_text(eq9 / batch)})"


def _giga_text(macs: float) -> str:
    """Three decimals, or three digits that count where those would be zeros."""
    return f"{macs / 1e9:.3f}" if macs >= 1e8 or macs == 0 else f"{giga(macs):g}"


def to_dict(report: ProfileReport) -> dict[str, object]:
    """Everything, in plain values: MACs of the whole batch, seconds, bytes."""
    setting = report.setting
    return {
        "resolution": [setting.width, setting.height],
        "batch": setting.batch,
        "amp": setting.amp,
        "compiled": setting.compiled,
        "convention": CONVENTION,
        "rows": [_row_dict(row) for row in report.rows],
        "miscounted": report.miscounted,
        "input_sets": report.input_sets,
        "environment": report.environment,
    }


def _row_dict(row: ProfileRow) -> dict[str, object]:
    return {
        "scope": row.scope,
        "model": row.model,
        "selection": row.selection,
        "select_ratio": row.select_ratio,
        "block_ratios": list(row.block_ratios),
        "heads": row.heads or None,
        "params": row.params,
        "macs_actual": row.macs_actual,
        "macs_eq9": row.macs_eq9,
        "macs_counted": row.macs_counted,
        "macs_training": (row.macs_training or (row.macs_actual, row.macs_eq9))[0],
        "macs_training_eq9": (row.macs_training or (row.macs_actual, row.macs_eq9))[1],
        "flops_actual": 2 * row.macs_actual,
        "breakdown": {
            name: {"actual": actual} | ({} if eq9 is None else {"eq9": eq9})
            for name, (actual, eq9) in row.breakdown.items()
        },
        "latency": None if row.latency is None else row.latency.to_dict(),
        "peak_bytes": row.peak_bytes,
        "train": None if row.train is None else row.train.to_dict(),
        "train_peak_bytes": row.train_peak_bytes,
        "note": row.note,
    }


def check_suffix(path: Path) -> None:
    """Raises UsageError for a file name that tells no format."""
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise UsageError(f"{path} ends in none of {', '.join(FILE_SUFFIXES)}", where="--out")


def write_report(report: ProfileReport, path: Path, *, by: str | None = None) -> None:
    """Publish a profile as .csv (one row a line), .md (the tables) or .json (everything)."""
    check_suffix(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_atomically(path, json.dumps(to_dict(report), indent=1) + "\n")
    elif suffix == ".md":
        write_atomically(path, "\n".join(_markdown(grid) for grid in grids(report, by=by)))
    else:
        write_atomically(path, _csv(report.rows))


def _markdown(grid: Grid) -> str:
    lines = [grid.columns, ["---"] * len(grid.columns), *grid.rows]
    text = "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |" for line in lines)
    below = "".join(f"\n{note}\n" for note in grid.footnotes)
    return f"## {grid.title}\n\n{text}\n{below}"


def _csv(rows: Sequence[ProfileRow]) -> str:
    lines = []
    for row in rows:
        plain = _row_dict(row)
        line = {name: value for name, value in plain.items() if not isinstance(value, (dict, list))}
        for clock in ("latency", "train"):
            timing = getattr(row, clock)
            line.pop(clock, None)
            figures = {} if timing is None else timing.to_dict()
            line |= {f"{clock}_{name}": figures.get(name) for name in CSV_TIMING}
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
