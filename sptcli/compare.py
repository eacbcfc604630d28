"""`spt compare`: runs side by side."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

EXAMPLES = (
    "spt compare runs/train/one runs/train/two",
    "spt compare last old.safetensors --metrics ap,macs,fps,ratio --html compare.html",
)
USUAL = options.Names(("ap", "macs", "ratio", "params"))


def command(
    ctx: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN..", help="runs, their names, or weights files")],
    metrics: Annotated[
        options.Names,
        typer.Option(
            "--metrics", parser=options.parse_names, metavar="NAME,..", help="ap, macs, fps, ratio, params, time"
        ),
    ] = USUAL,
    md: Annotated[Path | None, typer.Option("--md", metavar="FILE", help="the tables as Markdown")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="one line a run")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="a page with accuracy-cost plot and curves")
    ] = None,
) -> None:
    """Compare runs: their best validation, cost and selection, each against the first, and the settings that differ.

    MACs are of the backbone at the run's own resolution and validated ratios. fps times the backbones now, in turns, on
    the CPU.
    """
    from sptcore.files import write_atomically
    from sptcore.reporting.comparison import compare, grid, to_csv, to_dict, to_html, to_markdown
    from sptcore.runs.demo import open_weights

    session = Session.of(ctx)
    found = compare([open_weights(run) for run in runs], metrics, progress=session.progress)
    views = [table(*grid(found))]
    if found.differences:
        settings = [[name, *values] for name, values in found.differences.items()]
        views.append(table(["setting", *found.names], settings, title="settings that differ"))
    session.show(to_dict(found), *views)
    written = {}
    for name, path, render in (("markdown", md, to_markdown), ("csv", csv, to_csv), ("page", html, to_html)):
        if path is not None:
            write_atomically(path, render(found))
            written[name] = path
    session.finish(artefacts=written, next=f"spt report {shlex.quote(runs[-1])}")
