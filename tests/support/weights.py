"""Small weights files for tests of commands that look at a model."""

from __future__ import annotations

from pathlib import Path

import torch

from sptcore.models.variants import backbone_config
from sptcore.runs import save_weights
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec


def nano_weights(
    path: Path, *, variant: str = "spt-nano", resolution: tuple[int, int] = (128, 128), **backbone
) -> Path:
    """Untrained detection weights whose gates select some tokens and drop others."""
    task = TASKS["detect"]
    spec = ModelSpec(
        task="detect",
        variant=variant,
        backbone=backbone_config(variant, **backbone),
        heads=task.heads_config("auto", variant),
        categories=((1, "ring"), (2, "star")),
        masks=True,
        resolution=resolution,
    )
    torch.manual_seed(0)
    model = task.build_model(spec)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.normal_(std=0.3)
            elif name.endswith("gate.bias"):
                parameter.fill_(-7.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, model.state_dict(), spec.to_dict())
    return path
