"""`spt viz-selection`: heat maps of the tokens a model selects."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

EXAMPLES = (
    "spt viz-selection img.jpg",
    "spt viz-selection sample --gt --limit 4 --out pictures",
    "spt viz-selection img.jpg --weights last --blocks all --style mask",
)
AUTO = options.Names(("auto",))
SHOWN_OF_DATA = 8


def command(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="IMG|DIR|GLOB|DATA", help="an image, a folder, a pattern, or a data set")
    ],
    weights: Annotated[
        options.Names,
        typer.Option("--weights", parser=options.parse_names, metavar="FILE,..", help="auto, last, a run or weights"),
    ] = AUTO,
    blocks: Annotated[str, typer.Option("--blocks", metavar="N,..", help="sum, all, or numbers such as 3,5")] = "sum",
    style: Annotated[str, typer.Option("--style", help="heat, mask or dots")] = "heat",
    colormap: Annotated[
        str, typer.Option("--colormap", help="turbo, viridis, inferno, magma, plasma, cividis, hot, jet or bone")
    ] = "turbo",
    opacity: Annotated[float, typer.Option("--opacity", help="0 shows the image, 1 the colours")] = 0.5,
    gt: Annotated[bool, typer.Option("--gt", help="the selection labels beside (needs a data set)")] = False,
    res: options.Res = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="images to show; else all, but 8 of a data set")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE|DIR", help="where the pictures go, instead of here")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="all pictures on one page")] = None,
    save_npz: Annotated[
        Path | None, typer.Option("--save-npz", metavar="FILE", help="masks and heat maps as arrays")
    ] = None,
    device: options.Device = "auto",
    split: options.Split = "val",
    root: options.Root = None,
    ann: options.Ann = None,
    format: options.Format = "auto",
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    allow_truncated: options.AllowTruncated = False,
    size: options.AnnotatedSize = None,
) -> None:
    """Show which tokens a model selects: the sum over its selecting blocks of their masks, over the image (Fig. 5).

    Without --weights: the last run, else the bundled demo weights, which every picture then says. The picture is
    <stem>-selection.png in the current folder. Images are fitted into the resolution of the weights; --res changes it.
    """
    from sptcore.viz.job import Output, viz_selection
    from sptcore.viz.pictures import Reading, find_pictures
    from sptcore.viz.selection import Look

    session = Session.of(ctx)
    reading = Reading(split, root, ann, format, strict, follow_symlinks, allow_truncated, size)
    resolution = None if res is None else (max(res), min(res))
    report = viz_selection(
        find_pictures(source, reading, limit=limit, of_data=SHOWN_OF_DATA),
        weights,
        Look(blocks, style, colormap, opacity, gt, resolution),
        Output(out, html, save_npz),
        device=device,
        progress=session.progress,
    )
    session.show({"weights": report.weights, "demo": report.demo, "images": report.images}, _view(report.images))
    files = [image.file for image in report.images]
    written = {"picture" if len(files) == 1 else "pictures": files[0] if len(files) == 1 else files[0].parent}
    written |= {name: path for name, path in (("page", html), ("arrays", save_npz)) if path is not None}
    session.finish(artefacts=written, next=_next(report.demo, weights[0]))


def _view(images: list) -> object:
    if len(images) == 1:
        blocks = images[0].blocks
        return table(list(blocks[0]), [list(row.values()) for row in blocks])
    names = [row["block"] for row in images[0].blocks]
    rows = [[image.file.name, image.ratio, *(row["ratio"] for row in image.blocks)] for image in images]
    return table(["picture", "mean ratio", *names], rows)


def _next(demo: bool, weights: str) -> str:
    if demo:
        return "spt train"
    return "spt evaluate" if weights == "auto" else f"spt evaluate {shlex.quote(weights)}"
