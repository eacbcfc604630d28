"""`spt report`: a run on one page."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from sptcli import options
from sptcli.console import pairs
from sptcli.session import Session

EXAMPLES = ("spt report", "spt report runs/train/latest --out report.html --images 8")


def command(
    ctx: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="last, a run or its name, a weights file; auto: or the demo's")
    ] = "last",
    out: options.Out = None,
    images: Annotated[int, typer.Option("--images", min=0, help="validation images to show as heat maps")] = 4,
) -> None:
    """Write a run onto one self-contained page: figures, curves, validations, heat maps, cost, settings, environment.

    The page is report.html in the run's folder (beside you for a lone weights file) unless --out says otherwise. Heat
    maps need the data the run was validated on; without it the page says so and shows the rest.
    """
    from sptcore.reporting.report import report, summary
    from sptcore.runs.demo import open_weights

    session = Session.of(ctx)
    result = report(open_weights(run), out, images=images, progress=session.progress)
    for line in result.missing:
        session.warn(line)
    figures = dict(summary(result.facts))
    session.show({"run": result.facts.name, "summary": figures, "missing": result.missing}, pairs(figures))
    session.finish(artefacts={"page": result.page}, next=f"spt profile --weights {shlex.quote(run)}")
