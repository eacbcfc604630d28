"""Job evaluate: a run, weights or a results file on a data set: the task's figures, selection by block, MACs spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from sptcore.coco_results import read_results, write_results
from sptcore.data.locate import open_index
from sptcore.data.rasterize import is_below, object_ratio
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, IntegrityError, UsageError, did_you_mean
from sptcore.models.effect import check_effect
from sptcore.models.selectors import FIXED_RATIO
from sptcore.models.variants import AnyBackboneConfig, config_from_dict
from sptcore.profiling.macs import backbone_macs
from sptcore.progress import SILENT, Progress
from sptcore.runs import Run
from sptcore.runs.device import pick_device
from sptcore.runs.models import LoadedModel, load_model, parse_spec
from sptcore.tasks import TASKS
from sptcore.tasks.base import BlockCounts, Result, Scores, Scoring, Task
from sptcore.tasks.classes import match_data, renumbered
from sptcore.tasks.coco_metrics import BACKENDS
from sptcore.training.config import TrainConfig, format_for, make_config
from sptcore.training.datasets import ImageDataset, WholeImage
from sptcore.training.distributed import ALONE, Group
from sptcore.training.evaluate import Evaluation, ImageTokens, Running, evaluate_model
from sptcore.training.loading import default_workers
from sptcore.training.prepare import check_scores, label_strides, open_judging_labels, warn_of_cut_cells
from sptcore.training.threads import fitting_threads

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated and how. None means: as the run or the weights say.

    `gt_selection` replaces the gates by the labels, `select_ratio` by a fixed share of the best-scored tokens;
    `packing` is that of evaluation. `predictions`: score this results file instead of a model, as results of `task`
    (None: classify where the images have classes, else detect). `by_ratio`: edges of object-ratio bins that are scored
    apart. The processes of `group` share a model's images; the leader reports, the others' reports have no figures.
    """

    data: str | None = None
    split: str = "val"
    root: str | None = None
    ann: str | None = None
    format: str = "auto"
    labels: str = "auto"
    res: tuple[int, int] | None = None
    batch: int = 8
    workers: int | None = None
    device: str = "auto"
    backend: str = "faster"
    check_backends: bool = False
    by_ratio: tuple[float, ...] = ()
    gt_selection: bool = False
    select_ratio: float | None = None
    packing: str | None = None
    predictions: Path | None = None
    task: str | None = None
    save_predictions: Path | None = None
    strict: bool = False
    follow_symlinks: bool = False
    allow_truncated: bool = False
    size: tuple[int, int] | None = None
    group: Group = ALONE


@dataclass(frozen=True)
class RatioBin:
    """Images whose object-pixel ratio lies in [low, high), scored apart."""

    low: float
    high: float
    images: int
    scores: dict[str, Scores]


@dataclass(frozen=True)
class MacsSpent:
    """Multiply-accumulates of the backbone, mean over the images, each alone in its own frame.

    `actual`: what ran; `eq9`: the paper's count; `dense`: the same blocks with every token selected.
    """

    actual: float
    eq9: float
    dense: float


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation came to. `selector` tells how tokens were chosen: "ground_truth" is an upper bound.

    `found_by`: the options (`root`, `ann`, `format`, `size`) that the data set was found by, those of the run included.
    """

    subject: str
    task: str
    data: str
    split: str
    images: int
    scores: dict[str, Scores]
    class_names: dict[int, str]
    selector: str | None = None
    packing: str | None = None
    counts: list[BlockCounts] = field(default_factory=list)
    bins: list[RatioBin] = field(default_factory=list)
    macs: MacsSpent | None = None
    found_by: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """All figures flat: `bbox.AP` ..., `select_ratio.stage3` ..."""
        return Evaluation(self.images, self.scores, self.counts).figures()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ratios of each block spelt out."""
        blocks = [
            {
                "block": one.name, "stride": one.stride, "select_ratio": one.select_ratio, "own_ratio": one.own_ratio,
                "label_ratio": one.label_ratio, "recall": one.recall, "precision": one.precision,
                "padding_fraction": one.padding_fraction,
            }
            for one in self.counts
        ]  # fmt: skip
        plain = asdict(self) | {"blocks": blocks, "figures": self.figures()}
        del plain["counts"]
        return plain


def evaluate(
    run: Run | None, settings: EvaluationSettings | None = None, *, progress: Progress = SILENT
) -> EvaluationReport:
    """Evaluate a run or weights file on a split, or a results file (`settings.predictions`; then `run` may be None).

    Raises DataError for data or results that do not fit, UsageError for settings that do not, IntegrityError when
    `check_backends` finds the two scorers apart.
    """
    settings = settings or EvaluationSettings()
    if settings.backend not in BACKENDS:
        raise UsageError(f"no back end '{settings.backend}'", hint=", ".join(BACKENDS))
    if settings.predictions is not None and (settings.gt_selection or settings.select_ratio or settings.packing):
        raise UsageError("a results file selects nothing: --gt-selection, --select-ratio and --packing are for a model")
    if settings.task is not None and settings.task not in TASKS:
        raise UsageError(f"no task '{settings.task}'", hint=did_you_mean(settings.task, TASKS) or ", ".join(TASKS))
    own = None if run is None or run.folder is None or settings.data is not None else _trained(run)
    settings = _on_data(run, settings)
    data = settings.data or "sample"
    index = open_index(
        data,
        settings.split,
        root=settings.root,
        ann=settings.ann,
        format=settings.format,
        strict=settings.strict,
        follow_symlinks=settings.follow_symlinks,
        size=settings.size,
    )
    if not index.records:
        raise DataError("no image to evaluate on", where=str(index.annotation_path))
    if settings.predictions is not None:
        report = _score_file(settings.predictions, index, data, settings)
    else:
        assert run is not None
        report = _score_model(run, own, index, settings, progress)
    return replace(report, found_by=_found_by(settings))


def _found_by(settings: EvaluationSettings) -> dict[str, str]:
    size = None if settings.size is None else f"{settings.size[0]}x{settings.size[1]}"
    format = None if settings.format == "auto" else settings.format
    options = {"root": settings.root, "ann": settings.ann, "format": format, "size": size}
    return {name: str(value) for name, value in options.items() if value is not None}


def _on_data(run: Run | None, settings: EvaluationSettings) -> EvaluationSettings:
    """The settings with a data set: the one asked for, else the one the run was validated on and where it lies."""
    task = settings.task if run is None or settings.predictions is not None else parse_spec(run.info).task
    settings = _with_data(run, settings)
    return replace(settings, format=format_for(settings.data or "sample", settings.format, task or "detect"))


def _with_data(run: Run | None, settings: EvaluationSettings) -> EvaluationSettings:
    if settings.data is not None:
        return settings
    if run is None:
        raise UsageError("a results file needs a data set to be scored on", hint="add --data NAME")
    if run.folder is None:
        return replace(settings, data=str(run.info.notes.get("data") or "sample"))
    trained = _trained(run)
    return replace(
        settings,
        data=trained.val_data or trained.data,
        root=settings.root or trained.root,
        ann=settings.ann or trained.val_ann,
        format=trained.format if settings.format == "auto" else settings.format,
        size=settings.size or trained.size,
    )


def _trained(run: Run) -> TrainConfig:
    return make_config(run.config.get("train", {}), where=str(run.home / "config.toml"))


def _score_file(path: Path, index: DatasetIndex, data: str, settings: EvaluationSettings) -> EvaluationReport:
    by_data = "classify" if TASKS["classify"].refusal(index) is None else "detect"
    task = TASKS[settings.task or by_data]
    _check_task(task, index, settings)
    results, masks = read_results(path, index, labels=task.name != "detect")
    scoring = Scoring(masks=masks, backend=settings.backend)
    scores = task.score(index, results, scoring)
    names = {category.category_id: category.name for category in index.categories}
    report = EvaluationReport(str(path), task.name, data, settings.split, len(index.records), scores, names)
    return _completed(report, index, results, scoring, settings)


def _score_model(
    run: Run, own: TrainConfig | None, index: DatasetIndex, settings: EvaluationSettings, progress: Progress
) -> EvaluationReport:
    """Evaluate a model; `own` are the settings of its run, where it is evaluated on that run's data."""
    device, data = pick_device(settings.device), settings.data or "sample"
    loaded = load_model(run, device=device, **_backbone_changes(parse_spec(run.info).backbone, settings))
    if settings.task not in (None, loaded.task.name):
        raise UsageError(f"this model was trained to {loaded.task.name}; --task is for a results file")
    names = {one.category_id: one.name for one in index.categories}
    match = match_data(loaded.spec, index)
    if not match.is_whole:
        progress.warn(match.in_words())
    _check_task(loaded.task, index, settings)
    backbone = loaded.spec.backbone
    if backbone.packing_in_use == "stream" and settings.batch > 1:
        progress.warn("with --packing stream an image's result depends on the images beside it; --batch 1 avoids that")
    res = settings.res or loaded.spec.resolution
    workers = default_workers(res, torch.get_num_threads()) if settings.workers is None else settings.workers
    running = Running(device, settings.batch, workers, settings.backend, settings.group)
    dataset = _dataset(loaded, index, res, settings, own, progress)
    with fitting_threads(res, device):
        evaluation = evaluate_model(
            loaded.task,
            loaded.model,
            renumbered(loaded.spec, match),
            dataset,
            index,
            running=running,
            progress=progress,
        )
    if not settings.group.is_leader:
        return EvaluationReport(str(run.weights), loaded.task.name, data, settings.split, evaluation.images, {}, names)
    if settings.save_predictions is not None:
        write_results(settings.save_predictions, evaluation.results)
    report = EvaluationReport(
        subject=str(run.weights),
        task=loaded.task.name,
        data=data,
        split=settings.split,
        images=evaluation.images,
        scores=evaluation.scores,
        class_names=names,
        selector=backbone.selector if backbone.num_spa_blocks else None,
        packing=backbone.packing_in_use,
        counts=evaluation.counts,
        macs=macs_spent(backbone, evaluation.tokens),
    )
    scoring = Scoring(masks=loaded.spec.masks, backend=settings.backend)
    return _completed(report, index, evaluation.results, scoring, settings)


def _check_task(task: Task, index: DatasetIndex, settings: EvaluationSettings) -> None:
    if settings.check_backends and task.name != "detect":
        raise UsageError("--check-backends compares two scorers of COCO's AP, and classes of images have one")
    check_scores(task, index, of_model=settings.predictions is None)


def _backbone_changes(backbone: AnyBackboneConfig, settings: EvaluationSettings) -> dict[str, Any]:
    """Settings of the backbone that evaluation replaces."""
    changes: dict[str, Any] = {}
    if settings.gt_selection and settings.select_ratio is not None:
        raise UsageError("--gt-selection and --select-ratio are two ways to select; choose one")
    if settings.gt_selection:
        changes["selector"] = "ground_truth"
    if settings.select_ratio is not None:
        by_gate = {} if backbone.selector in FIXED_RATIO else {"selector": "topk", "topk_score": "gate"}
        changes |= {**by_gate, "select_ratio": settings.select_ratio}
    if settings.packing is not None:
        changes["eval_packing"] = settings.packing
    if changes and not backbone.num_spa_blocks:
        raise UsageError("this model selects no tokens, so there is nothing to change about it", where=_asked(settings))
    if backbone.is_plain and (settings.packing is not None or (changes and backbone.fixed_ratios)):
        message = "a ViT packs whole images and prunes by its own keep rate, so there is nothing to change about it"
        raise UsageError(message, where=_asked(settings))
    if backbone.fixed_ratios and (settings.gt_selection or settings.select_ratio is not None):
        raise UsageError("this model keeps the shares its own predictors were trained for", where=_asked(settings))
    if settings.select_ratio is not None and not (backbone.uses_gates or backbone.selector in FIXED_RATIO):
        raise UsageError("--select-ratio needs the scores of gates, which this model has not")
    check_effect(config_from_dict(backbone.to_dict() | changes), changes)
    return changes


def _asked(settings: EvaluationSettings) -> str:
    """The flags that would change how the model selects."""
    flags = {
        "--gt-selection": settings.gt_selection,
        "--select-ratio": settings.select_ratio is not None,
        "--packing": settings.packing is not None,
    }
    return ", ".join(flag for flag, given in flags.items() if given)


def _dataset(
    loaded: LoadedModel,
    index: DatasetIndex,
    res: tuple[int, int],
    settings: EvaluationSettings,
    own: TrainConfig | None,
    progress: Progress,
) -> ImageDataset:
    strides = label_strides(loaded.spec.backbone)
    warn_of_cut_cells(index, res, strides, progress)
    labels = open_judging_labels(settings.labels, own, index, progress) if strides else None
    return ImageDataset(
        index,
        WholeImage(res, index.padding),
        labels=labels,
        strides=strides,
        allow_truncated=settings.allow_truncated,
        follow_symlinks=settings.follow_symlinks,
    )


def _completed(
    report: EvaluationReport,
    index: DatasetIndex,
    results: Sequence[Result],
    scoring: Scoring,
    settings: EvaluationSettings,
) -> EvaluationReport:
    """The report with its object-ratio bins, both scorers compared where that was asked for."""
    task = TASKS[report.task]
    if settings.check_backends:
        other = next(name for name in BACKENDS if name != settings.backend)
        _compare(report.scores, task.score(index, results, replace(scoring, backend=other)), settings.backend, other)
    if settings.by_ratio:
        report.bins.extend(_bins(task, index, results, scoring, settings.by_ratio))
    return report


def _compare(ours: dict[str, Scores], theirs: dict[str, Scores], name: str, other: str) -> None:
    for kind, scores in ours.items():
        for figure, value in scores.figures.items():
            difference = abs(value - theirs[kind].figures[figure])
            if difference > _TOLERANCE:
                raise IntegrityError(f"{kind} {figure}: {name} and {other} differ by {difference:.3g}")


def _bins(
    task: Task, index: DatasetIndex, results: Sequence[Result], scoring: Scoring, by_ratio: Sequence[float]
) -> list[RatioBin]:
    """Scores of the images in each bin of object-pixel ratio; bins without images are left out."""
    edges = [0.0, *sorted(by_ratio), 1.0]
    ratios = {record.image_id: object_ratio(record) for record in index.records}
    bins = []
    for low, high in pairwise(edges):
        ids = [i for i, (pixels, total) in ratios.items() if _lies_in(pixels, total, low, high)]
        if ids:
            bins.append(RatioBin(low, high, len(ids), task.score(index, results, replace(scoring, image_ids=ids))))
    return bins


def _lies_in(pixels: int, total: int, low: float, high: float) -> bool:
    below_high = high >= 1 or is_below(pixels, total, Fraction(str(high)))
    return below_high and not is_below(pixels, total, Fraction(str(low)))


def macs_spent(backbone: AnyBackboneConfig, tokens: Sequence[ImageTokens]) -> MacsSpent | None:
    """Mean MACs of the backbone over images (Eq. 7 to 9); None without images."""
    if not tokens:
        return None
    sums = [0, 0, 0]
    for image in tokens:
        height, width = image.frame
        counts, windows = ([[count] for count in row] for row in (image.selected, image.containers))
        stages = backbone_macs(
            backbone, height, width, counts=counts, windows=windows or None, image_sizes=[image.size]
        )
        dense = backbone_macs(backbone, height, width, 1.0)
        sums[0] += sum(stage.macs for stage in stages)
        sums[1] += sum(stage.macs_eq9 for stage in stages)
        sums[2] += sum(stage.macs for stage in dense)
    return MacsSpent(*(total / len(tokens) for total in sums))
