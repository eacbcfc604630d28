"""`spt make-labels`: rasterise boxes or masks into multi-scale selection labels, one HDF5 file a split."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session
from sptcore.errors import UsageError

if TYPE_CHECKING:
    from sptcore.labels.build import BuildReport

EXAMPLES = (
    "spt make-labels coco-s20",
    "spt make-labels coco --splits train --strides 4,8,16,32 --out labels.h5 --jobs 8",
    "spt make-labels coco --splits train --shard 2/8 --out part2.h5",
    "spt make-labels coco --merge part1.h5 --merge part2.h5 --out labels.h5",
    "spt make-labels coco-s20 --verify",
)
LabelSource = Literal["auto", "boxes", "masks", "image"]
SHARING = "Sharing the work"


class Strides(tuple[int, ...]):
    """Comma-separated strides."""

    def as_flag(self) -> str:
        return ",".join(str(stride) for stride in self)

    def __str__(self) -> str:
        return self.as_flag()


DEFAULT_STRIDES = Strides((8, 16, 32))


def parse_strides(text: str | tuple[int, ...]) -> Strides:
    """`8,16,32` as Strides; a usage error for anything but powers of two from 1 to 1024."""
    parts = text if isinstance(text, tuple) else str(text).split(",")
    try:
        strides = sorted({int(part) for part in parts})
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of strides, such as 8,16,32") from None
    for stride in strides:
        if not 1 <= stride <= 1024 or stride & (stride - 1):
            raise typer.BadParameter(f"{stride} is not a power of two from 1 to 1024")
    return Strides(strides)


def command(
    ctx: typer.Context,
    data: options.Data,
    strides: Annotated[
        Strides,
        typer.Option("--strides", parser=parse_strides, metavar="K,..", help="cell sizes in pixels; 4 on request"),
    ] = DEFAULT_STRIDES,
    source: Annotated[
        LabelSource,
        typer.Option("--from", help="masks where there are any, else boxes; image: its place on the canvas"),
    ] = "auto",
    splits: Annotated[
        options.Names | None,
        typer.Option(
            "--splits", parser=options.parse_names, metavar="NAME,..", help="the splits to label; default all"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="the label file; with several splits their name is added"),
    ] = None,
    root: options.Root = None,
    ann: options.Ann = None,
    format: options.Format = "auto",
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, rich_help_panel=SHARING, help="worker processes; default all processors"),
    ] = None,
    shard: Annotated[
        options.Shard | None,
        typer.Option(
            "--shard", parser=options.parse_shard, metavar="K/N", rich_help_panel=SHARING, help="do part K of N"
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge", metavar="FILE", rich_help_panel=SHARING, help="join this shard with the others (repeat)"
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="derive the labels again and compare with the file; exit 5 if they differ")
    ] = False,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="with --verify: open the file in a child process only")
    ] = False,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    size: options.AnnotatedSize = None,
) -> None:
    """Rasterise boxes and masks into selection labels: which cells of each stride hold an object pixel.

    Without --out the file goes beside the annotations when spt wrote the data set, else into the cache under the
    source's fingerprint; training finds it there. It holds every image's mask too, so that labels of any stride and of
    augmented views follow from it (docs/formats.md). The same data give the same bytes, whatever --jobs and shards.

    A build that was stopped goes on with --resume. On a padded set the label is where the image lies on its canvas.
    """
    from sptcore.data.format import ReadOptions
    from sptcore.data.locate import locate
    from sptcore.labels import build

    session = Session.of(ctx)
    _check_flags(shard=shard, merge=merge, verify=verify, untrusted=untrusted, resume=resume, dry_run=dry_run)
    reading = ReadOptions(strict=strict, follow_symlinks=follow_symlinks, size=size)
    found = locate(data, root=root, ann=ann, format=format, options=reading)
    part = build.Shard(*shard) if shard else build.Shard()
    plan = build.LabelPlan(tuple(strides), source, tuple(splits or ()), out, part, jobs, resume, force)
    if verify:
        checked = build.verify_stores(found, plan, untrusted=untrusted, progress=session.progress)
        rows = [(split, count, path) for split, (path, count) in checked.items()]
        document = [{"split": split, "path": path, "n_images": count} for split, count, path in rows]
        session.show({"verified": document}, table(["split", "images that agree", "file"], rows))
    elif dry_run:
        outlooks = build.preview_labels(found, plan)
        rows = [(o.split, o.n_images, o.n_objects, o.exists, o.resumable, o.path) for o in outlooks]
        columns = ["split", "images", "objects", "exists", "resumable", "would write"]
        session.show({"would_write": outlooks}, table(columns, rows))
    else:
        merging = partial(build.merge_labels, shards=merge) if merge else build.make_labels
        made = merging(found, plan=plan, progress=session.progress)
        _show(session, made)
        typed = options.as_typed(data, root)
        following = f"spt make-labels {typed} --merge FILE .." if shard else f"spt train --data {typed}"
        session.finish(artefacts={f"labels {split}": report.path for split, report in made.items()}, next=following)


def _check_flags(**flags: object) -> None:
    """Raise a usage error for flags that exclude each other."""
    if flags["untrusted"] and not flags["verify"]:
        raise UsageError("--untrusted goes with --verify", hint="spt make-labels DATA --verify --untrusted")
    modes = [name for name in ("merge", "verify", "dry_run", "resume") if flags[name]]
    clashes = [name for name in ("merge", "verify") if flags[name] and (len(modes) > 1 or flags["shard"])]
    if clashes:
        others = [*(name for name in modes if name != clashes[0]), *(["shard"] if flags["shard"] else [])]
        raise UsageError(f"--{clashes[0]} does not go with --{others[0].replace('_', '-')}")


def _show(session: Session, made: dict[str, BuildReport]) -> None:
    strides = list(next(iter(made.values())).select_ratios) if made else []
    columns = ["split", "images", "empty", "objects", "object ratio", *(f"cells of {k}" for k in strides), "MB"]
    rows = [
        (split, r.n_images, r.n_empty, r.n_objects, r.object_ratio, *r.select_ratios.values(), r.n_bytes / 1e6)
        for split, r in made.items()
    ]
    session.show({"labels": made}, table(columns, rows))
