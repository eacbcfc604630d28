"""From settings to the parts of a run: data sets with their labels, the model and its first weights."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, IntegrityError
from sptcore.labels.build import ensure_labels
from sptcore.labels.store import LabelStore
from sptcore.models.config import STRIDES, BackboneConfig
from sptcore.models.variants import backbone_config
from sptcore.models.weights import load_official_swin, load_torchvision_swin
from sptcore.progress import SILENT, Progress
from sptcore.runs import load_weights
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec, Task
from sptcore.training.config import TrainConfig
from sptcore.training.datasets import DrawnGeometry, ImageDataset, WholeImage

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
    index = _open(config.data, config.split, config)
    val_index = _open(config.val_data or config.data, config.val_split, config)
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
        category_ids=[category_id for category_id, _ in spec.categories],
        masks=spec.masks,
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


def _open(data: str, split: str, config: TrainConfig) -> DatasetIndex:
    return open_index(
        data,
        split,
        root=config.root,
        ann=config.ann,
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
    if config.gate_bias_init is None and _starts_from_swin(config.init):
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


def _starts_from_swin(init: str) -> bool:
    """Whether the starting weights are another tool's, which know no gates."""
    path = Path(init)
    return init != "none" and path.is_file() and not (path.suffix == ".safetensors" and _is_ours(path))


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
        progress.note(load_initial(model, spec, Path(config.init)))
    return model


def load_initial(model: nn.Module, spec: ModelSpec, path: Path) -> str:
    """Overlay the weights of a file: ours, or a Swin state dict for the backbone; returns a line on what was loaded.

    Heads whose shape follows the classes stay fresh when the classes differ. Raises DataError or IntegrityError for a
    file that is missing, damaged, or of another architecture.
    """
    if path.suffix == ".safetensors" and _is_ours(path):
        return _load_ours(model, spec, path)
    state = _foreign_state(path)
    load = load_torchvision_swin if any(key.startswith("features.") for key in state) else load_official_swin
    report = load(model.backbone.body, state)  # type: ignore[arg-type, union-attr]
    return (
        f"backbone from {path}: {len(report.missing)} parameters stay fresh (gates, norms), {len(report.unused)} unused"
    )


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            return "spt" in (stream.metadata() or {})
    except (SafetensorError, OSError):
        return True  # load_weights says what is wrong with it


def _load_ours(model: nn.Module, spec: ModelSpec, path: Path) -> str:
    tensors, info = load_weights(path)
    ours = model.state_dict()
    same_classes = info.model.get("categories") == [list(pair) for pair in spec.categories]
    fresh = [name for name in ours if not same_classes and "_predictor." in name]
    kept = [name for name in ours if name not in fresh]
    wrong = [name for name in kept if name not in tensors or tensors[name].shape != ours[name].shape]
    if wrong:
        raise IntegrityError(
            f"weights of {info.model.get('variant')} do not fit {spec.variant}: {wrong[0]} and {len(wrong) - 1} more",
            where=str(path),
            hint="train the same --model with the same --heads",
        )
    model.load_state_dict({**ours, **{name: tensors[name] for name in kept}})
    return f"weights from {path}" + (", class heads fresh (other classes)" if fresh else "")


def _foreign_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth or .safetensors file of another tool; never executes what is in it."""
    if not path.is_file():
        raise DataError("no such weights file", where=str(path), hint="--init none starts from drawn weights")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise IntegrityError("not a file of plain weights", where=str(path)) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise IntegrityError("not a state dict", where=str(path))
    return content
