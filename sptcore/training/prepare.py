"""From settings to the parts of a run: data sets with their labels, the model and its first weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sptcore.data.padding import NO_PADDING
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, IntegrityError, UsageError
from sptcore.labels.build import SOURCES, check_store, ensure_labels
from sptcore.labels.geometry import whole_image
from sptcore.labels.store import LabelStore
from sptcore.models.config import STRIDES
from sptcore.models.effect import check_effect
from sptcore.models.recompute import recompute_blocks
from sptcore.models.selectors import bound_note
from sptcore.models.variants import AnyBackboneConfig, backbone_config
from sptcore.progress import SILENT, Progress
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec, Task
from sptcore.training.appearance import Appearance
from sptcore.training.config import TrainConfig
from sptcore.training.datasets import DrawnGeometry, ImageDataset, WholeImage
from sptcore.training.initial import load_initial, starts_from_swin
from sptcore.training.splits import open_splits
from sptcore.training.targets import TARGETS

PRETRAINED_GATE_BIAS = 4.0
"""Gates beside pretrained Swin weights begin almost open (sigmoid .98), so that step 0 is nearly Swin (3(a))."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The parts of a run that exist before its first step."""

    task: Task
    spec: ModelSpec
    train: ImageDataset
    val: ImageDataset
    val_index: DatasetIndex


def prepare(config: TrainConfig, progress: Progress = SILENT) -> Prepared:
    """Open the data, find or build its selection labels, and describe the model.

    Raises DataError for data that is missing or has nothing to learn, UsageError for a setting that does not exist.
    """
    task = TASKS[config.task]
    _check_settings(config)
    overrides = config.backbone_overrides
    check_effect(backbone_config(config.model, **overrides), overrides)  # names too are told before data is read
    index, val_index = open_splits(config, progress)
    if config.data == "sample":
        progress.note(
            f"data: built-in sample, {len(index.records)} training and {len(val_index.records)} validation images"
        )
    check_serves(task, index)
    if val_index.records and any(one.refusal(val_index) is None for one in TASKS.values()):
        check_serves(task, val_index)
    spec = describe(config, index)
    progress.note(f"learning {len(spec.categories)} classes, {task.in_words(spec)}")
    if bound := bound_note(spec.backbone.selector):
        progress.note(f"{spec.variant}, {bound}")
    strides = label_strides(spec.backbone)
    warn_of_cut_cells(index, spec.resolution, strides, progress)
    labels = open_labels(config.labels, index, progress) if strides else None
    train = ImageDataset(
        index,
        DrawnGeometry(config, index.padding),
        labels=labels,
        strides=strides,
        targets=TARGETS[spec.task](spec),
        appearance=_appearance(config, labels),
        allow_truncated=config.allow_truncated,
        follow_symlinks=config.follow_symlinks,
    )
    val = ImageDataset(
        val_index,
        WholeImage(spec.resolution, val_index.padding),
        labels=open_validation_labels(config, val_index, progress) if strides else None,
        strides=strides,
        allow_truncated=config.allow_truncated,
        follow_symlinks=config.follow_symlinks,
    )
    return Prepared(task, spec, train, val, val_index)


def check_serves(task: Task, index: DatasetIndex) -> None:
    """Raise UsageError when `task` cannot be learned from this data but another can, DataError when none can."""
    reason = task.refusal(index)
    if reason is None:
        return
    others = [name for name, other in TASKS.items() if other.refusal(index) is None]
    if not others:
        raise DataError(f"{reason} to learn from", where=str(index.annotation_path))
    hint = " or ".join(f"--task {name}" for name in others)
    raise UsageError(f"this data cannot teach {task.name}: {reason}", where=str(index.annotation_path), hint=hint)


def check_scores(task: Task, index: DatasetIndex, *, of_model: bool) -> None:
    """As `check_serves` for evaluation, of a model or (not `of_model`) of a results file, whose task can be named."""
    reason = task.refusal(index)
    if reason is None:
        return
    where = f"{index.annotation_path} (split {index.split}, {len(index.records)} images)"
    others = [name for name, other in TASKS.items() if other.refusal(index) is None]
    if not others:
        hint = "evaluation needs annotated images to find and score: other ones with --data, --split or --ann"
        raise DataError(f"{reason} to evaluate on", where=where, hint=hint)
    if of_model:
        hint = f"evaluate on other data: --data NAME; this set is one to {' or '.join(others)}"
        raise UsageError(f"this data cannot test a model that learned to {task.name}: {reason}", where=where, hint=hint)
    hint = " or ".join(f"--task {name}" for name in others)
    raise UsageError(f"this data cannot score results of {task.name}: {reason}", where=where, hint=hint)


def open_labels(labels: str, index: DatasetIndex, progress: Progress = SILENT) -> LabelStore:
    """The selection labels of `index`: `labels` is "auto", a file, or what they are made from (boxes, masks, image).

    Raises what `ensure_labels` raises.
    """
    if labels in SOURCES and not Path(labels).is_file():
        return LabelStore(ensure_labels(index, source=labels, progress=progress))  # type: ignore[arg-type]
    return LabelStore(ensure_labels(index, labels=labels, progress=progress))


def open_validation_labels(config: TrainConfig, index: DatasetIndex, progress: Progress = SILENT) -> LabelStore:
    """The selection labels of the validation's `index`: those of `val_labels`, else as `labels` says.

    A file of training labels serves where it holds these images, then the one beside it that make-labels wrote for this
    split; where neither does, labels are made from the annotations by the same rule, and `progress` says so. Raises as
    `open_labels`.
    """
    if config.val_labels is not None or config.labels in SOURCES:
        return open_labels(config.val_labels or config.labels, index, progress)
    given = Path(config.labels).expanduser()
    files = [given, given.with_name(f"{given.stem.removesuffix(config.split)}{index.split}{given.suffix}")]
    fitting = next((path for path in files if path.is_file() and _holds(path, index)), None)
    if fitting is not None:
        progress.note(f"labels of the validation: {fitting}")
        return open_labels(str(fitting), index, progress)
    progress.note(f"labels of the validation: made from the annotations, as {given} does not hold its images")
    with LabelStore(given) as store:
        source = str(store.header.params.get("source"))
    made_alike = source == "boxes" or (source == "masks" and index.has_masks)
    return open_labels(source if made_alike else "auto", index, progress)


def open_judging_labels(
    labels: str, own: TrainConfig | None, index: DatasetIndex, progress: Progress = SILENT
) -> LabelStore:
    """The selection labels an evaluation on `index` counts by: `labels`, where "auto" means those of the run's `own`.

    A run's `val_labels` count on the split it was validated on, its `labels` elsewhere, found as for its validation;
    where a file of its is gone, labels are made from the annotations, and `progress` says so. Raises as `open_labels`.
    """
    if own is None or labels != "auto":
        return open_labels(labels, index, progress)
    named = (own.val_labels if index.split == own.val_split else None) or own.labels
    if named not in SOURCES and not Path(named).expanduser().is_file():
        progress.note(f"labels: made from the annotations, as the run's own are gone: {named}")
        return open_labels("auto", index, progress)
    return open_validation_labels(own.model_copy(update={"labels": named, "val_labels": None}), index, progress)


def _holds(path: Path, index: DatasetIndex) -> bool:
    """Whether a label store is of `index`. Raises IntegrityError for one that is damaged."""
    with LabelStore(path) as store:
        _ = store.header  # reads it, and thereby refuses a damaged file
    try:
        check_store(path, index)
    except IntegrityError:
        return False
    return True


def same_labels(one: str, other: str) -> bool:
    """Whether two settings of `labels` stand for the same ones: two files of one source and recipe, wherever they lie.

    A file that is not there any more is taken for the other one, which has to belong to the data in any case.
    """
    if one == other:
        return True
    if one in SOURCES or other in SOURCES:
        return False
    paths = [Path(path).expanduser() for path in (one, other)]
    if not all(path.is_file() for path in paths):
        return True
    headers = [LabelStore(path).header for path in paths]
    return len({(header.source_sha256, header.params_json) for header in headers}) == 1


def warn_of_cut_cells(
    index: DatasetIndex, resolution: tuple[int, int], strides: Sequence[int], progress: Progress
) -> None:
    """Say so where the edge of images on a canvas cuts cells, which are then labelled though black in part."""
    if index.padding == NO_PADDING or not strides or not index.records:
        return
    record = index.records[0]
    width, height = whole_image(record.width, record.height, resolution, index.padding).out
    if width % max(strides) or height % max(strides):
        progress.warn(
            f"at {resolution[0]}x{resolution[1]} images end at {width}x{height} on their canvas, inside cells of "
            f"{max(strides)} pixels, so that labels reach into the black; 128, 256 or 448 keep them sharp"
        )


def _check_settings(config: TrainConfig) -> None:
    if config.task != "classify" and (config.mixup or config.cutmix):
        raise UsageError(f"mixup and cutmix mix classes of images, which {config.task} has not", hint="--task classify")


def _appearance(config: TrainConfig, labels: LabelStore | None) -> Appearance | None:
    """What alters the pixels of training images; nothing moves in them where boxes or labels would stay behind."""
    if not config.rand_augment and not config.erasing:
        return None
    stays = labels is None or labels.header.params.get("source") == "image"
    return Appearance(config, may_move=stays and config.task != "detect")


def describe(config: TrainConfig, index: DatasetIndex) -> ModelSpec:
    """The model for these settings and this data: all its classes, and masks where the data has them."""
    task = TASKS[config.task]
    overrides = config.backbone_overrides
    gated = backbone_config(config.model, **overrides).uses_gates
    if gated and config.gate_bias_init is None and starts_from_swin(config.init):
        overrides["gate_bias_init"] = PRETRAINED_GATE_BIAS
    heads = task.heads_config(config.heads, config.model)
    if "label_smoothing" in heads:
        heads["label_smoothing"] = config.label_smoothing
    return ModelSpec(
        task=config.task,
        variant=config.model,
        backbone=backbone_config(config.model, **overrides),
        heads=heads,
        categories=tuple((category.category_id, category.name) for category in index.categories),
        masks=index.has_masks and config.task == "detect",
        resolution=(max(config.res), min(config.res)),
    )


def label_strides(backbone: AnyBackboneConfig) -> tuple[int, ...]:
    """Strides whose labels the selection loss and the counts need: of s0 and of every stage with an SPA block."""
    stages = [stage for stage, blocks in enumerate(backbone.spa_blocks, start=1) if blocks]
    if backbone.entry_stage is not None:
        stages.append(backbone.entry_stage)
    return tuple(STRIDES[stage - 1] for stage in sorted(stages))


def memory_mb(device: torch.device) -> float:
    """Peak memory so far: of the device on CUDA, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def set_determinism(config: TrainConfig) -> None:
    """Let torch use deterministic algorithms only, where the settings ask for that."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def build_model(task: Task, spec: ModelSpec, config: TrainConfig, progress: Progress = SILENT) -> nn.Module:
    """The model with its first weights: drawn from the seed, then overlaid by `config.init`."""
    torch.manual_seed(config.seed)
    model = task.build_model(spec)
    if config.init != "none":
        progress.note(load_initial(model, spec, config.init))
    if config.checkpoint_activations and not recompute_blocks(model):
        raise UsageError(
            f"checkpoint_activations: no block of {spec.variant} can be computed again",
            hint="leave it out; a smaller --batch with --accum needs less memory too",
        )
    return model
