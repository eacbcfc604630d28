"""Small weights files for tests of commands that look at a model."""

from __future__ import annotations

from pathlib import Path

import torch

from sptcore.models.variants import backbone_config
from sptcore.runs import save_weights
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec


def nano_weights(
    path: Path,
    *,
    variant: str = "spt-nano",
    resolution: tuple[int, int] = (128, 128),
    task: str = "detect",
    masks: bool = True,
    gate_bias: float = -7.0,
    **backbone,
) -> Path:
    """Untrained weights whose gates select some tokens and drop others; all or none at a `gate_bias` of +-100."""
    kind = TASKS[task]
    spec = ModelSpec(
        task=task,
        variant=variant,
        backbone=backbone_config(variant, **backbone),
        heads=kind.heads_config("auto", variant),
        categories=((1, "ring"), (2, "star")),
        masks=masks,
        resolution=resolution,
    )
    torch.manual_seed(0)
    model = kind.build_model(spec)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.normal_(std=0.3)
            elif name.endswith("gate.bias"):
                parameter.fill_(gate_bias)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, model.state_dict(), spec.to_dict())
    return path
