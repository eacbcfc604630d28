"""`spt prepare`: unpack official archives, say what is there and what is missing, check every image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sptcli import options
from sptcli.console import pairs, table
from sptcli.session import Session
from sptcore.errors import IntegrityError

if TYPE_CHECKING:
    from sptcore.data.prepare import PrepareReport

EXAMPLES = (
    "spt prepare coco --root /data --check",
    "spt prepare coco --root /data --archive val2017.zip --archive annotations_trainval2017.zip",
    "spt prepare sample",
)
SHOWN = 10


def command(
    ctx: typer.Context,
    data: options.Data,
    archive: Annotated[
        list[Path] | None, typer.Option("--archive", metavar="FILE", help="an official zip or tar to unpack (repeat)")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="compare every image's header with its annotation; exit 5 if one differs")
    ] = False,
    root: options.Root = None,
    format: options.Format = "auto",
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    size: options.AnnotatedSize = None,
) -> None:
    """Detect a data set's layout, count what is there, name what is missing and its official page.

    Nothing is downloaded. Archives are unpacked into the set's folder below --root, $SPT_DATA or ./data; files that
    are there already are kept. A part of a set (a few images, one split) is fine: it is reported as partial.
    """
    from sptcore.data.format import ReadOptions
    from sptcore.data.prepare import prepare

    session = Session.of(ctx)
    report = prepare(
        data,
        root=root,
        archives=tuple(archive or ()),
        check=check,
        format=format,
        options=ReadOptions(strict=strict, follow_symlinks=follow_symlinks, size=size),
        progress=session.progress,
    )
    session.show(_document(report), *_views(report))
    _remarks(report, session)
    if check and report.problems:
        counts = ", ".join(
            f"{kind} ({count} times)" if count > 1 else kind for kind, count in report.problem_counts.items()
        )
        raise IntegrityError(f"images that do not fit their annotations: {counts}", where=str(report.root))
    session.finish(artefacts={"data": report.root}, next=f"spt stats {options.as_typed(data, root)}")


def _document(report: PrepareReport) -> dict[str, object]:
    parts = [
        {"name": part.name, "state": part.state, "found": part.found, "expected": part.expected, "from": part.archive}
        for part in report.parts
    ]
    return {
        "name": report.name,
        "format": report.format,
        "root": report.root,
        "home": report.home,
        "unpacked": report.unpacked,
        "parts": parts,
        "missing": [part.archive for part in report.missing],
        "splits": report.splits,
        "checked": report.checked,
        "problem_counts": report.problem_counts,
        "problems": report.problems,
    }


def _views(report: PrepareReport) -> list:
    views: list = [pairs({"data set": report.name, "format": report.format, "folder": report.root})]
    if report.parts:
        rows = [(part.name, part.state, part.found, part.expected, part.archive) for part in report.parts]
        views.append(table(["part", "", "files", "in full", "from"], rows))
    rows = [(s.split, s.images, s.images_present, s.objects, s.classes, s.has_masks) for s in report.splits]
    views.append(table(["split", "images", "of them here", "objects", "classes", "masks"], rows))
    if report.problems:
        rows = [(p.kind, p.split, p.file_name, p.detail) for p in report.problems[:SHOWN]]
        views.append(table(["problem", "split", "image", ""], rows))
    return views


def _remarks(report: PrepareReport, session: Session) -> None:
    for split in report.splits:
        for note in split.notes:
            session.note(f"{split.split}: {note}")
        for cause, count in split.dropped.items():
            session.warn(f"{split.split}: {count} annotations left out: {cause}")
    if len(report.problems) > SHOWN:
        session.warn(f"{len(report.problems) - SHOWN} more images have a problem; --json lists all")
    for part in report.missing:
        session.warn(f"missing: {part.name} ({part.archive}), from {report.home}")
