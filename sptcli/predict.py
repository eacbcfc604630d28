"""`spt predict`: what a model finds in images and videos."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

if TYPE_CHECKING:
    from sptcore.prediction import PredictReport

EXAMPLES = (
    "spt predict img.jpg",
    "spt predict pictures --weights last --conf .5 --out found",
    "spt predict street.mp4 --video-out found.mp4",
)
SHOWN = 20


def command(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(metavar="IMG|DIR|GLOB|VIDEO|DATA", help="an image, a folder, a pattern, a video, a data set"),
    ],
    weights: Annotated[str, typer.Option("--weights", metavar="FILE", help="auto, last, a run or weights")] = "auto",
    conf: Annotated[float, typer.Option("--conf", help="least score that is kept")] = 0.3,
    save: Annotated[Literal["images", "json", "both"], typer.Option("--save", help="what is written")] = "both",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="folder, instead of the current one")] = None,
    video_out: Annotated[Path | None, typer.Option("--video-out", metavar="FILE", help="the annotated video")] = None,
    res: options.Res = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="images to look at, from the first")] = None,
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
    """Predict: boxes and masks, or classes, drawn on each image, and as a COCO results file.

    Without --weights: the last run, else the bundled demo weights, which every picture then says. Pictures are
    <stem>-prediction.png and results predictions.json, in the current folder or --out; a video becomes a video. Of
    several images one that cannot be read is told, passed over, and makes the exit code 3.
    """
    from sptcore.errors import DataError
    from sptcore.prediction import PredictSettings, predict
    from sptcore.viz.pictures import Reading, find_pictures
    from sptcore.viz.video import VIDEO_SUFFIXES, open_video

    session = Session.of(ctx)
    moving = Path(source).suffix.lower() in VIDEO_SUFFIXES
    if moving:
        found = open_video(Path(source))
    else:
        reading = Reading(split, root, ann, format, strict, follow_symlinks, allow_truncated, size)
        found = find_pictures(source, reading, limit=limit)
    resolution = None if res is None else (max(res), min(res))
    settings = PredictSettings(weights, conf, save, out, video_out, resolution, device)
    report = predict(found, settings, progress=session.progress)
    document = {"weights": report.weights, "demo": report.demo, "images": report.images, "unread": report.unread}
    if not any(image.results for image in report.images):
        session.note(f"nothing scored {conf:g} or more; a smaller --conf shows what came nearest")
    session.show(document, _view(report))
    how = {"ann": ann, "format": format, "split": None if split == "val" else split, "size": size, "strict": strict}
    how |= {"follow_symlinks": follow_symlinks, "allow_truncated": allow_truncated}
    looked_at = f"spt viz-selection {options.as_typed(source, root, **how)} --weights {shlex.quote(weights)}"
    shown = report.selects and not moving
    session.finish(artefacts=dict(report.files), next=looked_at if shown else f"spt evaluate {shlex.quote(weights)}")
    if report.unread:
        count = len(report.unread) + len(report.images)
        raise DataError(f"{len(report.unread)} of {count} images could not be read; of the others all is written")


def _view(report: PredictReport) -> object:
    """One image: a line a result; several: a line an image."""
    names = report.class_names
    if len(report.images) == 1:
        results = report.images[0].results[:SHOWN]
        rows = [[names.get(one["category_id"]), one["score"], *_box(one)] for one in results]
        return table(["class", "score", *(["box x y w h"] if any(map(_box, results)) else [])], rows)
    rows = []
    for image in report.images[:SHOWN]:
        counts: dict[str, int] = {}
        for one in image.results:
            name = str(names.get(one["category_id"]))
            counts[name] = counts.get(name, 0) + 1
        rows.append([image.name, len(image.results), ", ".join(f"{count} {name}" for name, count in counts.items())])
    return table(["image", "found", "of which"], rows)


def _box(result: dict) -> list[str]:
    """The cell of a box; none where the result has none."""
    return [" ".join(f"{side:.0f}" for side in result["bbox"])] if "bbox" in result else []
