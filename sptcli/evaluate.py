"""`spt evaluate`: a run, weights or a results file on a data set."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sptcli import options
from sptcli.console import pairs, table
from sptcli.processes import Spread, joined_here, launched
from sptcli.session import Session

if TYPE_CHECKING:
    from sptcore.evaluation import EvaluationReport, EvaluationSettings, MacsSpent

EXAMPLES = (
    "spt evaluate",
    "spt evaluate last --per-class --by-ratio .05,.1,.2,.4",
    "spt evaluate runs/train/latest --gt-selection",
    "spt evaluate --predictions found.json --data coco --check-backends",
    "spt evaluate last --fail-under AP=.20",
)


def command(
    ctx: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN|WEIGHTS", help="last, a run or its name, a weights file; auto: or the demo's")
    ] = "last",
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="a data set; without it the run's own")
    ] = None,
    split: options.Split = "val",
    labels: Annotated[
        str, typer.Option("--labels", metavar="FILE", help="auto (the run's own, found or built), or a file")
    ] = "auto",
    root: options.Root = None,
    ann: options.Ann = None,
    format: options.Format = "auto",
    res: options.Res = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="images a forward pass")] = 8,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="loading processes")] = None,
    device: options.Device = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, metavar="N", help="processes that share the images")] = 1,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="score this COCO results file, no model")
    ] = None,
    task: Annotated[
        Literal["detect", "multilabel", "classify"] | None,
        typer.Option("--task", help="what the results file holds; else by the data"),
    ] = None,
    save_predictions: Annotated[
        Path | None, typer.Option("--save-predictions", metavar="FILE", help="write the results in COCO's format")
    ] = None,
    backend: Annotated[
        Literal["faster", "pycocotools"], typer.Option("--backend", help="who works out AP; the digits are the same")
    ] = "faster",
    check_backends: Annotated[bool, typer.Option("--check-backends", help="both, and exit 5 if they differ")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="the main figure of each class")] = False,
    by_ratio: Annotated[
        options.Numbers | None,
        typer.Option("--by-ratio", parser=options.parse_numbers, metavar="R,..", help="AP by object-pixel ratio"),
    ] = None,
    gt_selection: Annotated[
        bool, typer.Option("--gt-selection", help="select by the labels: an upper bound (Fig. 4)")
    ] = False,
    select_ratio: Annotated[
        options.Fraction | None,
        typer.Option("--select-ratio", parser=options.parse_ratio, metavar="R", help="select the best share R instead"),
    ] = None,
    packing: Annotated[
        Literal["stream", "aligned"] | None,
        typer.Option("--packing", help="aligned (default): no image depends on another; stream: as in training"),
    ] = None,
    fail_under: Annotated[
        str | None, typer.Option("--fail-under", metavar="AP=.20,..", help="exit 5 when a figure is below")
    ] = None,
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    allow_truncated: options.AllowTruncated = False,
    size: options.AnnotatedSize = None,
) -> int:
    """Evaluate: COCO's twelve figures for boxes and masks, PASCAL VOC's mAP for the classes an image shows, top-1 and
    top-5 accuracy for its one class; what each block selected of what it should; MACs spent.

    Ratios are over all tokens of the split: selected, labelled, and of the labelled the share selected (recall). The
    MACs are the backbone's on these images, as it ran.

    A run keeps what was found as `evaluation.json`; an upper bound or an ablation (--gt-selection, --select-ratio,
    --packing stream) goes into a file of its own, such as `evaluation-gt-selection.json`.
    """
    from sptcore.demands import check_demands, parse_demands
    from sptcore.evaluation import EvaluationSettings, evaluate
    from sptcore.runs.demo import open_weights
    from sptcore.training.distributed import ALONE

    session = Session.of(ctx)
    demands = parse_demands(fail_under) if fail_under else {}
    settings = EvaluationSettings(
        data=data, split=split, labels=labels, root=_text(root), ann=_text(ann), format=format, res=res, batch=batch,
        workers=workers, device=device, predictions=predictions, task=task, save_predictions=save_predictions,
        backend=backend, check_backends=check_backends, by_ratio=tuple(by_ratio or ()), gt_selection=gt_selection,
        packing=packing, select_ratio=None if select_ratio is None else float(select_ratio), strict=strict,
        follow_symlinks=follow_symlinks, allow_truncated=allow_truncated, size=size,
    )  # fmt: skip
    subject = None if predictions is not None else open_weights(run)
    spread = Spread(device, devices if subject is not None else 1)
    if devices > 1 and (code := launched(session, spread)) is not None:
        return code
    with joined_here(spread) if devices > 1 else nullcontext((ALONE, device)) as (group, own_device):
        settings = replace(settings, group=group, device=str(own_device))
        report = evaluate(subject, settings, progress=session.progress)
    if not group.is_leader:
        return 0
    document = report.to_dict()
    session.show(document, *_views(report, per_class=per_class))
    artefacts: dict[str, object] = {}
    if save_predictions is not None:
        artefacts["predictions"] = save_predictions
    if subject is not None and subject.folder is not None:
        artefacts["evaluation"] = subject.write_json(_file_name(settings), document)
    check_demands(report, demands)
    session.finish(artefacts=artefacts, next=_next(report))
    return 0


def _file_name(settings: EvaluationSettings) -> str:
    """`evaluation.json` is the run as it was trained; what selects or packs otherwise has a file of its own name."""
    changes = [
        "gt-selection" if settings.gt_selection else None,
        None if settings.select_ratio is None else f"select-ratio-{settings.select_ratio:g}",
        "stream" if settings.packing == "stream" else None,
    ]
    return "-".join(["evaluation", *filter(None, changes)]) + ".json"


def _next(report: EvaluationReport) -> str:
    """What to look at: where the model selected; the data itself where nothing selects."""
    split = None if report.split == "val" else report.split
    if report.selector is None:
        return f"spt stats {options.as_typed(report.data, **report.found_by)}"
    data = options.as_typed(report.data, split=split, **report.found_by)
    return f"spt viz-selection {data} --weights {shlex.quote(report.subject)} --gt"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _views(report: EvaluationReport, *, per_class: bool) -> list[Any]:
    about: dict[str, object] = {
        "evaluated": report.subject,
        "on": f"{report.data} {report.split}",
        "images": report.images,
    }
    if report.selector is not None:
        bound = "an upper bound" if report.selector == "ground_truth" else None
        about["selection"] = ", ".join(filter(None, (report.selector, report.packing, bound)))
    views: list[Any] = [pairs(about)]
    kinds = list(report.scores)
    names = dict.fromkeys(name for scores in report.scores.values() for name in scores.figures)
    main = next(iter(names))
    rows = [[name, *(_figure(report.scores[kind].figures[name]) for kind in kinds)] for name in names]
    views.append(table(["", *kinds], rows))
    if report.counts:
        rows = [
            [one.name, one.select_ratio, one.own_ratio, one.label_ratio, one.recall, one.precision]
            for one in report.counts
        ]
        views.append(table(["block", "selected", "own gate", "labelled", "recall", "precision"], rows))
    if report.macs is not None:
        views.append(pairs({"backbone MACs": _spent(report.macs) if report.counts else _giga(report.macs.actual)}))
    if report.bins:
        rows = [
            [f"{one.low:g} to {one.high:g}", one.images, *(_figure(one.scores[kind].figures[main]) for kind in kinds)]
            for one in report.bins
        ]
        views.append(table(["object ratio", "images", *(f"{kind} {main}" for kind in kinds)], rows))
    if per_class:
        rows = [
            [name, *(_figure(report.scores[kind].per_class.get(category_id, -1.0)) for kind in kinds)]
            for category_id, name in report.class_names.items()
        ]
        views.append(table(["class", *(f"{kind} {main.removeprefix('m')}" for kind in kinds)], rows))
    return views


def _spent(macs: MacsSpent) -> str:
    saved = 1 - macs.actual / macs.dense
    return f"{_giga(macs.actual)} ({saved:.1%} below selecting all; Eq. 9: {macs.eq9 / 1e9:.3f} G)"


def _giga(macs: float) -> str:
    return f"{macs / 1e9:.3f} G an image"


def _figure(value: float) -> float | None:
    """COCO's -1 is "nothing to find"."""
    return None if value < 0 else value
