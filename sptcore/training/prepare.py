"""From settings to the parts of a run: data sets with their labels, the model and its first weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, UsageError
from sptcore.labels.build import ensure_labels
from sptcore.labels.store import LabelStore
from sptcore.models.config import STRIDES, BackboneConfig
from sptcore.models.recompute import recompute_blocks
from sptcore.models.variants import backbone_config
from sptcore.progress import SILENT, Progress
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec, Task
from sptcore.training.config import TrainConfig
from sptcore.training.datasets import DrawnGeometry, ImageDataset, WholeImage
from sptcore.training.initial import load_initial, starts_from_swin
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
    backbone_config(config.model, **config.backbone_overrides)  # a name that does not exist is told before data is read
    index = _open(config.data, config.split, config.ann, config)
    val_index = _open_validation(config)
    if config.data == "sample":
        progress.note(
            f"data: built-in sample, {len(index.records)} training and {len(val_index.records)} validation images"
        )
    if not index.records or not any(record.instances for record in index.records):
        raise DataError("no image with an object to learn from", where=str(index.annotation_path))
    spec = describe(config, index)
    kind = "boxes and masks (Mask R-CNN)" if spec.masks else "boxes only, the data has no masks (Faster R-CNN)"
    progress.note(f"learning {len(spec.categories)} classes, {kind}")
    strides = label_strides(spec.backbone)
    train = ImageDataset(
        index,
        DrawnGeometry(config),
        labels=_labels(config.labels, index, progress) if strides else None,
        strides=strides,
        targets=TARGETS[spec.task](spec),
        allow_truncated=config.allow_truncated,
        follow_symlinks=config.follow_symlinks,
    )
    val = ImageDataset(
        val_index,
        WholeImage(spec.resolution),
        labels=_labels("auto", val_index, progress) if strides else None,
        strides=strides,
        allow_truncated=config.allow_truncated,
        follow_symlinks=config.follow_symlinks,
    )
    return Prepared(task, spec, train, val, val_index)


def _open_validation(config: TrainConfig) -> DatasetIndex:
    """The validation's records; never those of `ann`, on which the model is trained."""
    try:
        return _open(config.val_data or config.data, config.val_split, config.val_ann, config)
    except DataError as error:
        if config.ann is None or config.val_ann is not None or config.val_data is not None:
            raise
        hint = "name its annotations: --set val_ann=FILE, or another set: --val-data DATA"
        raise DataError(f"nothing to validate on: {error.message}", where=error.where, hint=hint) from error


def _open(data: str, split: str, ann: str | None, config: TrainConfig) -> DatasetIndex:
    return open_index(
        data,
        split,
        root=config.root,
        ann=ann,
        format=config.format,
        strict=config.strict,
        follow_symlinks=config.follow_symlinks,
        size=config.size,
    )


def _labels(labels: str, index: DatasetIndex, progress: Progress) -> LabelStore:
    return LabelStore(ensure_labels(index, labels=labels, progress=progress))


def describe(config: TrainConfig, index: DatasetIndex) -> ModelSpec:
    """The model for these settings and this data: all its classes, and masks where the data has them."""
    task = TASKS[config.task]
    overrides = config.backbone_overrides
    if config.gate_bias_init is None and starts_from_swin(config.init):
        overrides["gate_bias_init"] = PRETRAINED_GATE_BIAS
    return ModelSpec(
        task=config.task,
        variant=config.model,
        backbone=backbone_config(config.model, **overrides),
        heads=task.heads_config(config.heads, config.model),
        categories=tuple((category.category_id, category.name) for category in index.categories),
        masks=index.has_masks,
        resolution=(max(config.res), min(config.res)),
    )


def label_strides(backbone: BackboneConfig) -> tuple[int, ...]:
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
