"""From what a person asks of `spt profile` to the subjects: models, forced ratios, and ratios of real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import UsageError
from sptcore.models.selectors import FIXED_RATIO
from sptcore.models.variants import VARIANTS
from sptcore.profiling.real import label_selection, measured_selection, trained_subject
from sptcore.profiling.subjects import Selection, Subject, subject, uniform_selections
from sptcore.progress import SILENT, Progress
from sptcore.runs import Run
from sptcore.runs.demo import is_demo, open_weights
from sptcore.runs.models import LoadedModel, load_model


@dataclass(frozen=True)
class DataChoice:
    """The images that ratios are measured on: a data set as `open_index` takes it, and how many of its images."""

    data: str
    split: str = "val"
    limit: int = 32
    options: tuple[tuple[str, object], ...] = ()
    allow_truncated: bool = False

    def index(self) -> DatasetIndex:
        """The records. Raises DataError when the data set is not found or invalid."""
        return open_index(self.data, self.split, **dict(self.options))  # type: ignore[arg-type]


@dataclass(frozen=True)
class ProfilePlan:
    """Who is profiled. `models`: names; with `weights` (a run, a file, last, auto) the trained model comes after them.

    `ratios` are forced, by default those of `auto_ratios`; before them comes that of real images where `data` or
    `weights` say so. `size`: width, height. `categories` of the heads: None means those of the trained model, and 80
    without one. `heads`: a name, or "auto": those of the trained model, without one those that training would give to
    each. Raises UsageError for heads to a trained model, which has its own.
    """

    models: tuple[str, ...]
    size: tuple[int, int]
    ratios: tuple[float, ...] = ()
    weights: str | None = None
    data: DataChoice | None = None
    categories: int | None = None
    heads: str = "auto"

    def __post_init__(self) -> None:
        if self.weights is not None and self.heads != "auto":
            raise UsageError(
                "a trained model has its own heads, and the models beside it are given these",
                where="--heads",
                hint="leave --heads out, or --weights",
            )


def subjects(plan: ProfilePlan, device: torch.device, progress: Progress = SILENT) -> tuple[Subject, ...]:
    """The subjects of a plan. Raises UsageError, DataError or IntegrityError for models, data or weights that fail."""
    trained = None if plan.weights is None else _trained(plan, device, progress)
    found = [_beside(trained, name, plan) for name in dict.fromkeys(plan.models)]
    if plan.data is not None:
        index = plan.data.index()
        found = [_with_labels(one, index, plan, progress) for one in found]
    return tuple(found if trained is None else [*found, trained])


def _beside(trained: Subject | None, name: str, plan: ProfilePlan) -> Subject:
    """A named model; beside a trained one it has its heads, or the two would not compare."""
    one = subject(name, plan.ratios, categories=plan.categories or 80, heads=plan.heads)
    if trained is None:
        return one
    return replace(one, shape=replace(trained.shape, categories=plan.categories or trained.shape.categories))


def _with_labels(one: Subject, index: DatasetIndex, plan: ProfilePlan, progress: Progress) -> Subject:
    """The ratio that the labels of the data ask for, before the forced ones, where what is selected can follow them."""
    if (
        not one.config.num_spa_blocks
        or plan.data is None
        or one.config.selector in FIXED_RATIO
        or one.config.fixed_ratios
    ):
        return one
    labels = label_selection(one.config, index, plan.size, limit=plan.data.limit, progress=progress)
    return replace(one, selections=(labels, *one.selections))


def _trained(plan: ProfilePlan, device: torch.device, progress: Progress) -> Subject:
    run = open_weights(plan.weights or "auto")
    name = f"{run.name} (trained)" if run.name in plan.models else run.name  # a folder may be called as a model is
    loaded = load_model(run, device=device)
    config = loaded.spec.backbone
    forced = uniform_selections(config, plan.ratios)
    if not config.num_spa_blocks or config.fixed_ratios:
        return trained_subject(name, loaded, forced)
    choice = plan.data or _own_data(run)
    return trained_subject(name, loaded, (_real(loaded, choice, plan, progress), *forced))


def _real(loaded: LoadedModel, choice: DataChoice, plan: ProfilePlan, progress: Progress) -> Selection:
    index = choice.index()
    if loaded.spec.backbone.selector == "ground_truth":
        return label_selection(loaded.spec.backbone, index, plan.size, limit=choice.limit, progress=progress)
    return measured_selection(
        loaded,
        index,
        plan.size,
        limit=choice.limit,
        allow_truncated=choice.allow_truncated,
        follow_symlinks=bool(dict(choice.options).get("follow_symlinks")),
        progress=progress,
    )


def _own_data(run: Run) -> DataChoice:
    """The data a run was trained on; the sample for the demo weights."""
    if is_demo(run):
        return DataChoice("sample")
    if run.folder is None:
        raise UsageError(
            "a weights file does not say on which images to measure its select ratio",
            where=str(run.weights),
            hint="name a data set: --data DATA",
        )
    settings = run.config.get("train", {})
    keys = {"root": "root", "ann": "val_ann", "format": "format"}
    options = tuple((key, settings[name]) for key, name in keys.items() if settings.get(name) is not None)
    return DataChoice(str(settings.get("val_data") or settings.get("data", "sample")), options=options)


def rival_of(models: Sequence[str], weights: str | None) -> tuple[str, ...]:
    """The models beside trained weights when none was named: the Swin or ViT of their size, if there is one."""
    if weights is None:
        return tuple(models)
    variant = str(open_weights(weights).info.model.get("variant", ""))
    body = "vit" if variant in VARIANTS and VARIANTS[variant].is_plain else "swin"
    rival = f"{body}-{variant.rpartition('-')[2]}"
    return (rival,) if rival in VARIANTS and rival != variant else ()
