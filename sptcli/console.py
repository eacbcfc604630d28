"""What a person sees: tables and results on stdout, everything else on stderr, data always printed literally."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sptcli.failures import Failure

PIPE_WIDTH = 160  # columns of a table that goes to a file or a pipe, when COLUMNS is not set
NARROW_GAP = 2  # columns between those of a table that has to be squeezed
LONG_WORD = 16  # a longer word (a path, say) may be broken


def make_console(stream: TextIO, **settings: Any) -> Console:
    """A rich console on `stream` that reads no markup; honours NO_COLOR, FORCE_COLOR, TERM and COLUMNS."""
    from rich.console import Console

    class Literal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    if not stream.isatty() and not os.environ.get("COLUMNS"):
        settings.setdefault("width", PIPE_WIDTH)
    return Literal(file=stream, markup=False, emoji=False, highlight=False, **settings)


def printable(value: object, *, lines: bool = False) -> str:
    """`value` as text with control characters and lone surrogates escaped; with `lines`, newlines and tabs stay."""
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in str(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A result table; numbers stand right, None is a dash, floats are given with four significant digits."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    view = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[index], (int, float, type(None))) for row in cells)
        view.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        view.add_row(*(Text(cell_text(cell)) for cell in row))
    return view


def tables(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, keys: int = 1, title: str | None = None
) -> list[Table]:
    """As `table`, in several where the screen is too narrow for its columns, each with the first `keys` columns."""
    width = make_console(sys.stdout).width
    least = _least_widths(table(columns, rows))
    groups: list[list[int]] = [[]]
    for place in range(keys, len(columns)):
        shown = [*range(keys), *groups[-1], place]
        if groups[-1] and sum(least[one] for one in shown) + _gaps(len(shown)) > width:
            groups.append([])
        groups[-1].append(place)
    parts = [[*range(keys), *group] for group in groups]
    return [
        table([columns[place] for place in part], [[row[place] for place in part] for row in rows], title=title)
        for part, title in zip(parts, [title, *[None] * len(parts)], strict=False)
    ]


def pairs(values: Mapping[str, object]) -> Table:
    """A view of names and values, one a line."""
    from rich.table import Table
    from rich.text import Text

    view = Table.grid(padding=(0, 2))
    for name, value in values.items():
        view.add_row(Text(name, style="bold"), Text(cell_text(value), overflow="fold"))
    return view


def cell_text(value: object) -> str:
    """One value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(value)


def print_views(views: Iterable[Any], stream: TextIO | None = None) -> None:
    """Print texts and tables to stdout (or `stream`)."""
    console = make_console(stream or sys.stdout)
    for view in views:
        if isinstance(view, str):
            console.print(printable(view, lines=True), soft_wrap=True)
        else:
            console.print(_fitted(view, console.width))


def _fitted(view: Table, width: int) -> Table | Text:
    """A table that is wider than the screen, its columns broken between words and numbers not at all.

    Where not even a long word of each column would fit, its rows as blocks of lines.
    """
    from rich.cells import cell_len

    natural = [max(map(cell_len, column)) for column in _texts(view)]
    gaps = _gaps(len(natural))
    if not view.show_header or sum(natural) + gaps + len(natural) - 1 <= width:
        return view
    least = _least_widths(view)
    if sum(least) + gaps > width:
        return _blocks(view)
    view.padding = (0, 1, 0, 0)
    for column, columns in zip(view.columns, shared_out(natural, least, width - gaps), strict=True):
        column.width = columns
    return view


def _texts(view: Table) -> list[list[str]]:
    return [[str(column.header), *map(str, column.cells)] for column in view.columns]


def _least_widths(view: Table) -> list[int]:
    """The width below which each column would break a word that is not long."""
    from rich.cells import cell_len

    words = [max((cell_len(word) for text in column for word in text.split()), default=1) for column in _texts(view)]
    return [min(longest, LONG_WORD) for longest in words]


def _gaps(columns: int) -> int:
    """What a squeezed table of so many columns needs beside them."""
    return NARROW_GAP * (columns - 1) + 2


def _blocks(view: Table) -> Text:
    """A table's rows one below the other, each a block of lines `field: value`; empty cells are left out."""
    from rich.text import Text

    text = Text("\n") if view.title is None else Text(f"{view.title}\n\n")
    fields = [str(column.header) for column in view.columns]
    for row in zip(*(column.cells for column in view.columns), strict=True):
        for field, cell in zip(fields, map(str, row), strict=True):
            if cell:
                text.append(f"{field}: " if field else "", style="bold").append(f"{cell}\n")
        text.append("\n")
    text.rstrip()
    return text.append("\n")


def shared_out(natural: Sequence[int], least: Sequence[int], available: int) -> list[int]:
    """Widths of columns that together take `available`: the widest give way first, none below its least before all."""
    widths = list(natural)
    while sum(widths) > max(available, len(widths)):
        above = [i for i, wide in enumerate(widths) if wide > least[i]] or range(len(widths))
        widths[max(above, key=widths.__getitem__)] -= 1
    return widths


def show_failure(failure: Failure, *, as_json: bool = False) -> None:
    """Print an error screen on stderr: what happened, where, and what mends it; or one JSON line."""
    if as_json:
        sys.stderr.write(json.dumps({"event": "error", **failure.as_json()}) + "\n")
        return
    from rich.text import Text

    console = make_console(sys.stderr)
    lines = [
        ("error: ", "bold red", failure.message),
        ("where: ", "bold", failure.where),
        (" hint: ", "bold", failure.hint),
    ]
    for label, style, text in lines:
        if text:
            console.print(Text(label, style=style) + Text(printable(text, lines=True)), soft_wrap=True)


def dump_json(document: Mapping[str, object]) -> str:
    """One JSON document and a newline, in ASCII; paths are text, values that are not finite are null."""
    return json.dumps(to_plain(document), indent=2, allow_nan=False) + "\n"


def to_plain(value: Any) -> Any:
    """`value` in types JSON has: dataclasses as objects, paths and fractions as text, arrays as lists, NaN as null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, type):
        return value.__name__
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "__struct_fields__"):  # msgspec
        return {name: to_plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((to_plain(item) for item in value), key=str)
    if isinstance(value, PurePath):
        return str(value)
    return to_plain(value.tolist()) if hasattr(value, "tolist") else str(value)
