"""From a weights file back to the model it describes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sptcore.errors import IntegrityError, UsageError
from sptcore.models.variants import config_from_dict
from sptcore.runs import Run
from sptcore.runs.weights import WeightsInfo, load_weights
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec, Task

_OPTIONAL = re.compile(r"(^|\.)(gate|norms\.\d)\.(weight|bias)$")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in evaluation mode with its weights, its description and its task."""

    task: Task
    spec: ModelSpec
    model: nn.Module
    info: WeightsInfo

    def require_own_selection(self) -> None:
        """Raise UsageError where the model selects by labels, which a lone image has not."""
        if self.spec.backbone.selector == "ground_truth":
            raise UsageError("this model selects by labels, which a lone image has not", hint="spt evaluate")


def load_model(run: Run, *, device: torch.device | str = "cpu", **backbone: Any) -> LoadedModel:
    """The model of a run or a weights file; `backbone` settings replace those it was trained with.

    Only settings without parameters of their own fit (eval_packing, select_threshold, selector ...); gates, and the
    norm before s0, that the replaced settings have no use for are left out. Raises IntegrityError when the weights do
    not fit, DataError without any.
    """
    tensors, info = load_weights(run.weights)
    spec = parse_spec(info)
    if backbone:
        spec = replace(spec, backbone=config_from_dict(spec.backbone.to_dict() | backbone))
    if spec.task not in TASKS:
        raise IntegrityError(f"weights of a task this version does not know: {spec.task!r}", where=str(info.path))
    task = TASKS[spec.task]
    model = task.build_model(spec)
    if backbone:
        own = model.state_dict()
        tensors = {name: tensor for name, tensor in tensors.items() if name in own or not _OPTIONAL.search(name)}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1 if "\n" in str(error) else 0].strip()
        raise IntegrityError(f"the weights do not fit their own description: {reason}", where=str(info.path)) from error
    return LoadedModel(task, spec, model.to(device).eval(), info)


def parse_spec(info: WeightsInfo) -> ModelSpec:
    """The model a weights file describes. Raises IntegrityError for a description this version cannot read."""
    try:
        return ModelSpec.from_dict(info.model)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise IntegrityError(f"the description of the model cannot be read: {error}", where=str(info.path)) from error
