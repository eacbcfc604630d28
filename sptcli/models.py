"""`spt models`: the models, what they cost, where they come from, and weights that fit."""

from __future__ import annotations

from typing import Annotated

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

EXAMPLES = (
    "spt models",
    "spt models spt-s --res 1280x800",
    "spt models --family spt --weights",
)
PAPER_SIZE = options.Size(1280, 800)


def command(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="one model, stage by stage")] = None,
    family: Annotated[str | None, typer.Option("--family", metavar="NAME", help="spt, swin, topk-windows ...")] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="weights that fit: torchvision's, and those of your runs")
    ] = False,
    res: Annotated[
        options.Size, typer.Option("--res", parser=options.parse_size, metavar="WxH", help="resolution of the MACs")
    ] = PAPER_SIZE,
) -> None:
    """List the models with their parameters and multiply-accumulates, or one model stage by stage.

    Costs are of the backbone, by formula, where every token is selected (r = 1) and where a quarter is (r = .25); a
    model whose ratios are its own (DynamicSwin) costs the same in both. 1 MAC is 2 FLOPs; the paper's FLOPs are MACs.
    """
    from sptcore import catalogue
    from sptcore.models.variants import backbone_config

    session = Session.of(ctx)
    names = [name] if name else catalogue.models_of(family)
    config = backbone_config(name) if name else None
    rows = catalogue.list_models(names, width=res.width, height=res.height)
    document: dict[str, object] = {"resolution": str(res), "models": rows}
    views = [_models_table(rows), _origins_table(rows)]
    if name and config:
        stages = catalogue.list_stages(name, width=res.width, height=res.height)
        document |= {"stages": stages, "config": config.to_dict()}
        views.append(_stages_table(stages))
    if weights:
        found = catalogue.list_weights(names)
        document["weights"] = found
        views.append(
            table(
                ["model", "weights", "MB", "on disk", ""],
                [[w.model, w.name, w.megabytes, w.path, w.note] for w in found],
            )
        )
    session.show(document, *views)


def _models_table(rows: list) -> object:
    cells = [
        [r.name, r.params / 1e6, *(macs / 1e9 for macs in r.macs.values()), f"{r.spa_blocks} of {r.blocks}"]
        for r in rows
    ]
    return table(["model", "params M", "GMACs r=1", "GMACs r=.25", "select and pack"], cells)


def _origins_table(rows: list) -> object:
    """Where models come from, those of one origin in one line: `spt-t|s|b`."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        sizes.setdefault((row.origin, row.family), []).append(row.name.removeprefix(f"{row.family}-"))
    return table(["models", "from"], [[f"{family}-{'|'.join(of)}", origin] for (origin, family), of in sizes.items()])


def _stages_table(rows: list) -> object:
    cells = [
        [
            r.stage,
            r.stride,
            f"{r.grid[0]}x{r.grid[1]}",
            r.channels,
            r.heads,
            f"{r.spa_blocks}/{r.blocks}",
            r.params / 1e6,
            *(macs / 1e9 for macs in r.macs.values()),
        ]
        for r in rows
    ]
    names = [
        "stage",
        "stride",
        "tokens",
        "channels",
        "heads",
        "select and pack",
        "params M",
        "GMACs r=1",
        "GMACs r=.25",
    ]
    return table(names, cells)
