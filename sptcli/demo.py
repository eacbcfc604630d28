"""`spt demo`: the main road on the built-in sample."""

from __future__ import annotations

from typing import Annotated

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

EXAMPLES = ("spt demo", "spt demo --epochs 2 --json")


def command(
    ctx: typer.Context,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="epochs of both trainings, instead of the sample preset's")
    ] = None,
    seed: options.Seed = 0,
    run_dir: options.RunDir = None,
) -> None:
    """Walk the whole road on the built-in sample: subset, labels, training, evaluation, MACs, heat maps, report.

    Trains SPT-nano and Swin-nano side by side, one core each, in a few minutes on a CPU. At this size the figures show
    that every part works; they do not show which model is better.
    """
    from sptcore.demo import demo
    from sptcore.demo.page import COLUMNS, rows

    session = Session.of(ctx)
    report = demo(folder=run_dir, epochs=epochs, seed=seed, progress=session.progress)
    document = {
        "folder": report.folder,
        "images": {"seen": report.seen, "kept": report.kept},
        "entrants": [one.to_dict() for one in report.entrants],
        "own_settings": report.own_settings,
        "seconds": report.seconds,
    }
    own = ", ".join(f"{name} {value:g}" for name, value in report.own_settings.items())
    session.show(
        document,
        table(COLUMNS, rows(report.entrants), title=f"{report.kept} of {report.seen} images of the sample"),
        f"Ratios and recall are of stage 3 on the validation images. Demo settings, not the paper's: {own}.",
    )
    session.finish(
        artefacts={"report": report.page, "heat maps": report.folder / "heatmaps", "subset": report.subset},
        next="spt viz-selection sample --gt --out selections",
    )
