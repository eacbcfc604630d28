"""`spt make-sparse`: the images whose object-pixel ratio lies below a threshold, as a set of their own."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

EXAMPLES = (
    "spt make-sparse coco --max-ratio 0.2",
    "spt make-sparse bdd -r 0.25 --root /data/bdd100k --images symlink --out bdd-s25",
    "spt make-sparse voc -r 0.25 --ratio-from boxes --difficult exclude --dry-run",
    "spt make-sparse coco -r 0.2 --shard 2/8 --out part-2",
    "spt make-sparse coco -r 0.2 --merge part-1 --merge part-2",
    "spt make-sparse tiny-imagenet --pad 2x2",
)
COUNTING = "What counts"
SHARING = "Sharing the work"
BAR = 40  # letters of the longest bar


def command(
    ctx: typer.Context,
    data: options.Data,
    max_ratio: Annotated[
        Fraction | None,
        typer.Option(
            "--max-ratio", "-r", parser=options.parse_ratio, metavar="R", help="keep images below it; required"
        ),
    ] = None,
    min_ratio: Annotated[
        Fraction, typer.Option("--min-ratio", parser=options.parse_ratio, metavar="R", help="and not below this")
    ] = Fraction(0),
    ratio_from: Annotated[
        Literal["auto", "boxes", "masks"],
        typer.Option(
            "--ratio-from",
            rich_help_panel=COUNTING,
            help="auto: masks, else boxes; masks: images without any are left out",
        ),
    ] = "auto",
    union: Annotated[
        bool,
        typer.Option("--union/--sum", rich_help_panel=COUNTING, help="overlaps count once, or once for each object"),
    ] = True,
    crowd: Annotated[
        Literal["include", "exclude", "drop-image"],
        typer.Option("--crowd", rich_help_panel=COUNTING, help="crowd regions as objects"),
    ] = "include",
    difficult: Annotated[
        Literal["include", "exclude"],
        typer.Option("--difficult", rich_help_panel=COUNTING, help="difficult objects (VOC)"),
    ] = "include",
    void: Annotated[
        Literal["include", "exclude"],
        typer.Option("--void", rich_help_panel=COUNTING, help="the void border of masks (VOC)"),
    ] = "exclude",
    classes: Annotated[
        options.Names | None,
        typer.Option(
            "--classes",
            parser=options.parse_names,
            metavar="NAME,..",
            rich_help_panel=COUNTING,
            help="objects of these classes only; default all",
        ),
    ] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="leave out images without objects")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="keep the first N of each split")
    ] = None,
    splits: Annotated[
        options.Names | None,
        typer.Option("--splits", parser=options.parse_names, metavar="NAME,..", help="default all there are"),
    ] = None,
    root: options.Root = None,
    ann: options.Ann = None,
    format: options.Format = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="default data/<name>-s<percent>, or below SPT_DATA")
    ] = None,
    images: Annotated[
        Literal["none", "symlink", "hardlink", "copy"],
        typer.Option("--images", help="none: the manifest tells where they are"),
    ] = "none",
    pad: Annotated[
        str | None, typer.Option("--pad", metavar="2x2", help="write the images in the corner of a black canvas (IN-S)")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, rich_help_panel=SHARING, help="worker processes; default all processors"),
    ] = None,
    shard: Annotated[
        options.Shard | None,
        typer.Option(
            "--shard", parser=options.parse_shard, metavar="K/N", rich_help_panel=SHARING, help="measure part K of N"
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option("--merge", metavar="DIR", rich_help_panel=SHARING, help="a part's folder; repeat for all parts"),
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", rich_help_panel=SHARING, help="local, or dask://HOST:PORT")
    ] = "local",
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    fail_empty: Annotated[bool, typer.Option("--fail-empty", help="exit 5 when no image is kept")] = False,
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    allow_truncated: options.AllowTruncated = False,
    size: options.AnnotatedSize = None,
) -> None:
    """Keep the images whose object pixels fill less than --max-ratio of the image: COCO-S 0.20, BDD-S and VOC-S 0.25.

    An object's pixels are those of its mask, or of its box where it has none; overlaps count once; a ratio equal to the
    threshold is left out, images without objects are kept. Annotations are written in the source's format, kept entries
    byte for byte, with ratios.csv (every image and its verdict) and manifest.json (rule, counts, hashes). The result is
    used by its name: spt train --data coco-s20.
    """
    from sptcore.data.format import ReadOptions
    from sptcore.data.locate import locate
    from sptcore.data.padding import NO_PADDING, parse_padding
    from sptcore.data.rasterize import PixelRule
    from sptcore.data.sparse import SparsePlan, SparseRule, default_out, make_sparse
    from sptcore.data.workers import named_executor, usable_processors

    session = Session.of(ctx)
    overlap = "union" if union else "sum"
    pixels = PixelRule(ratio_from=ratio_from, crowd=crowd, difficult=difficult, void=void, overlap=overlap)
    rule = SparseRule(max_ratio, min_ratio, pixels, tuple(classes or ()), drop_empty, limit)
    plan = SparsePlan(
        splits=None if splits is None else tuple(splits),
        images=images,
        pad=NO_PADDING if pad is None else parse_padding(pad),
        jobs=jobs or usable_processors(),
        executor=named_executor(executor),
        shard=None if shard is None else (shard.index, shard.count),
        merge=tuple(merge or ()),
        resume=resume,
        dry_run=dry_run,
        force=force,
        fail_empty=fail_empty,
        allow_truncated=allow_truncated,
    )
    reading = ReadOptions(strict=strict, follow_symlinks=follow_symlinks, size=size)
    source = locate(data, root=root, ann=ann, format=format, options=reading)
    target = out or default_out(source, rule, plan)
    report = make_sparse(source, rule, target, plan, progress=session.progress)
    if shard is not None:
        typed = options.as_typed(data, root)
        session.show({"part": f"{shard}", "out": report.out})
        session.finish(artefacts={"part": report.out}, next=f"spt make-sparse {typed} .. --merge DIR --merge DIR ..")
        return
    _show(session, report.out, report.manifest)
    if report.out is not None:
        artefacts = {"set": report.out, "ratios": report.out / "ratios.csv", "manifest": report.out / "manifest.json"}
        session.finish(artefacts=artefacts, next=f"spt make-labels {options.as_typed(_called(report.out))}")


def _show(session: Session, out: Path | None, manifest: Mapping[str, Any]) -> None:
    splits: Mapping[str, Any] = manifest["splits"]
    brief = {
        split: {key: value for key, value in part.items() if key != "dropped"}
        | {"dropped": {key: part["dropped"][key] for key in ("total", "by_cause")}}
        for split, part in splits.items()
    }
    columns = ["split", "images", "kept", "without objects", "annotations left out", "at .15", "at .20", "at .25"]
    rows = [
        (split, part["images"], part["kept"], part["without_objects"], part["dropped"]["total"], *_landmarks(part))
        for split, part in splits.items()
    ]
    views: list[Any] = [table(columns, rows, title="images kept, and how many other thresholds would keep")]
    for split, part in splits.items():
        views.append(table(["ratio", "images", ""], _histogram(part["histogram"]), title=f"{split}: images by ratio"))
        causes = [*part["dropped"]["by_cause"].items(), *part["noticed"].items()]
        if causes:
            views.append(table([f"{split}: in the annotations", "times"], causes))
    session.show({"out": out, "rule": manifest["rule"], "splits": brief}, *views)


def _landmarks(part: Mapping[str, Any]) -> list[int]:
    return [part["would_keep"][mark] for mark in ("0.15", "0.20", "0.25")]


def _histogram(counts: list[int]) -> list[tuple[str, int, str]]:
    step, longest = 1 / len(counts), max([*counts, 1])
    return [
        (f"{number * step:.2f} to {(number + 1) * step:.2f}", count, "#" * -(-BAR * count // longest))
        for number, count in enumerate(counts)
    ]


def _called(out: Path) -> str:
    """What a person types for the set: its name where that is enough, else its path."""
    from sptcore.data.locate import search_roots

    roots = [folder.absolute() for folder in search_roots()]
    return out.name if out.absolute().parent in roots else str(out)
