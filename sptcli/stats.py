"""`spt stats`: how sparse a data set is, what is in it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

if TYPE_CHECKING:
    from sptcore.data.format import ReadOptions, Source
    from sptcore.data.stats import Histogram, SetStats

EXAMPLES = (
    "spt stats sample",
    "spt stats coco --by class --splits train --html coco.html",
    "spt stats coco-s20 --compare coco --csv both.csv",
)
BAR = 30  # letters of the longest bar


def command(
    ctx: typer.Context,
    data: options.Data,
    by: Annotated[
        Literal["ratio", "size", "class", "count"],
        typer.Option("--by", help="images by ratio or object count, objects by size or class"),
    ] = "ratio",
    bins: Annotated[int, typer.Option("--bins", min=1, max=1000, help="bins of the ratios and counts")] = 20,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="DATA", help="another data set to put beside it")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="write all four histograms as a table")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="write a page with charts, in one file")
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", min=0, metavar="N", help="images with their selection labels, on the page")
    ] = 4,
    splits: Annotated[
        options.Names | None,
        typer.Option("--splits", parser=options.parse_names, metavar="NAME,..", help="default all there are"),
    ] = None,
    root: options.Root = None,
    ann: options.Ann = None,
    format: options.Format = "auto",
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="worker processes; default all processors")] = None,
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    size: options.AnnotatedSize = None,
) -> None:
    """Show how much of a data set's images is object, how large its objects are, and the problems found on the way.

    Ratios are those of make-sparse: object pixels over image pixels. Image files are opened for their headers: missing
    ones, sizes that differ from the annotation and annotations made on a picture that EXIF had turned are listed,
    beside the annotations that no command will use.
    """
    from sptcore.data.format import ReadOptions
    from sptcore.data.locate import locate
    from sptcore.data.stats import TITLES, histograms, set_stats, write_csv, write_html
    from sptcore.data.workers import usable_processors

    session = Session.of(ctx)
    reading = ReadOptions(strict=strict, follow_symlinks=follow_symlinks, size=size)
    found = [locate(data, root=root, ann=ann, format=format, options=reading)]
    if compare is not None:
        found.append(locate(compare, root=root, options=reading))
    wanted = None if splits is None else tuple(splits)
    sets = [
        set_stats(source, splits=wanted, jobs=jobs or usable_processors(), progress=session.progress)
        for source in found
    ]
    bars = histograms(by, bins, sets)
    document = {"sets": [one.as_document() for one in sets], "by": by, "labels": bars[0].labels}
    session.show(document | {"counts": [one.counts for one in bars]}, *_views(sets, bars, TITLES[by]))
    artefacts = {}
    if csv is not None:
        write_csv(csv, sets, bins=bins)
        artefacts["table"] = csv
    if html is not None:
        write_html(html, sets, bins=bins, pictures=_label_pictures(found[0], sets[0], pictures, reading))
        artefacts["page"] = html
    session.finish(artefacts=artefacts, next=f"spt make-sparse {options.as_typed(data, root)} --max-ratio 0.2")


def _label_pictures(source: Source, stats: SetStats, count: int, reading: ReadOptions) -> list[tuple[str, bytes]]:
    """Captions and pictures of the first split's labels."""
    from sptcore.data.locate import read_split
    from sptcore.labels.pictures import label_pictures

    if not count:
        return []
    index = read_split(source, stats.splits[0].split)
    return [
        (
            f"{one.file_name}: " + ", ".join(f"{share:.0%} of the cells of {s}" for s, share in one.ratios.items()),
            one.jpeg,
        )
        for one in label_pictures(index, count, follow_symlinks=reading.follow_symlinks)
    ]


def _views(sets: Sequence[SetStats], bars: Sequence[Histogram], title: str) -> list[Any]:
    columns = ["set", "split", "images", "no objects", "objects", "mean ratio", "under .15", "under .20", "under .25"]
    rows = [
        (one.name, part.split, part.images, part.empty, part.objects, part.mean_ratio, *part.under.values())
        for one in sets
        for part in one.splits
    ]
    views: list[Any] = [table(columns, rows), _histogram(sets, bars, title)]
    problems = [(one.name, kind, len(found), found[0].what) for one in sets for kind, found in one.problems.items()]
    problems += [(one.name, what, count, "") for one in sets for what, count in one.noticed.items()]
    if problems:
        views.append(table(["set", "problem", "times", "first"], problems))
    return views


def _histogram(sets: Sequence[SetStats], bars: Sequence[Histogram], title: str) -> Any:
    """Bins down, for each set its counts and a bar of their share."""
    columns = [bars[0].by, *(column for one in sets for column in (one.name, ""))]
    longest = [max([*one.counts, 1]) for one in bars]
    rows = []
    for number, label in enumerate(bars[0].labels):
        row: list[object] = [label]
        for one, most in zip(bars, longest, strict=True):
            row += [one.counts[number], "#" * -(-BAR * one.counts[number] // most)]
        rows.append(row)
    return table(columns, rows, title=title)
