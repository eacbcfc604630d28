"""The metrics of a run: one JSON object a line as they come, a CSV table of the same made from it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from sptcore.errors import IntegrityError
from sptcore.files import write_atomically

TIMING = frozenset({"seconds", "img_per_s", "memory_mb"})
"""Columns that differ from run to run; every other one is the same bit for bit when a run is repeated on a CPU."""


class MetricsLog:
    """Appends rows to `metrics.jsonl` and makes `metrics.csv` from them."""

    def __init__(self, folder: Path) -> None:
        self._jsonl = folder / "metrics.jsonl"
        self._csv = folder / "metrics.csv"

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it has a `step`."""
        with self._jsonl.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def rewind(self, step: int, *, validated: bool = True) -> None:
        """Forget the rows after `step`, which a resumed run writes again; unless `validated`, its validation too."""
        rows = [row for row in read_metrics(self._jsonl, torn_end=True) if row["step"] <= step]
        if not validated:
            rows = [row for row in rows if row["step"] < step or not any(name.startswith("val.") for name in row)]
        write_atomically(self._jsonl, "".join(json.dumps(row) + "\n" for row in rows))

    def write_csv(self) -> None:
        """Make `metrics.csv` anew: a column for every name that occurs, in order of first use."""
        rows = read_metrics(self._jsonl)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self._csv, text.getvalue())


def read_metrics(path: Path, *, torn_end: bool = False) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; none when it is missing. `torn_end` forgives a last line cut short by a crash.

    Raises IntegrityError naming the line that is not a JSON object with a step.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if torn_end and number == len(lines):
                break
            raise IntegrityError(f"not a JSON object: {error.msg}", where=f"{path}:{number}") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise IntegrityError("not a row of metrics", where=f"{path}:{number}")
        rows.append(row)
    return rows
