"""The bodies a model can have: hierarchical (Swin, SPT and their relatives) or plain (ViT and its pruned relatives)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.config import BackboneConfig
from sptcore.models.vit.config import BODY, ViTConfig
from sptcore.models.vit.model import ViT

AnyBackbone = HierarchicalBackbone | ViT
AnyBackboneConfig = BackboneConfig | ViTConfig


def config_from_dict(values: Mapping[str, Any]) -> AnyBackboneConfig:
    """The inverse of either config's `to_dict`, told apart by `body`. Raises UsageError for a key that is no field."""
    return ViTConfig.from_dict(values) if values.get("body") == BODY else BackboneConfig.from_dict(values)


def body_of(config: AnyBackboneConfig) -> AnyBackbone:
    """The backbone of a config, with fresh weights."""
    return ViT(config) if isinstance(config, ViTConfig) else HierarchicalBackbone(config)


def apply_schedule(model: nn.Module, progress: float) -> None:
    """Tell what changes with a training run (EViT's keep rate) which share of it, 0 to 1, is done.

    To be called before every step with a function of the step, so that no checkpoint has to know.
    """
    for module in model.modules():
        if isinstance(module, ViT):
            module.apply_schedule(progress)


def find_backbone(model: nn.Module) -> AnyBackbone:
    """The backbone inside a model of any task, or the model itself. Raises ValueError when there is none."""
    for module in model.modules():
        if isinstance(module, HierarchicalBackbone | ViT):
            return module
    raise ValueError(f"no backbone in a {type(model).__name__}")
