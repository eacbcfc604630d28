"""AdamW with the paper's parameter groups, and a learning rate that is a function of the step alone."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from sptcore.training.config import TrainConfig

_GATE = re.compile(r"(^|[._])gate\.(weight|bias)$")
_NO_DECAY = re.compile(r"norm|relative_position_bias|position_bias|pos_embed|cls_token|(^|[._])gate\.bias$")


def param_groups(
    model: nn.Module, *, weight_decay: float, gate_lr_mult: float, decay_biases: bool = True
) -> list[dict[str, Any]]:
    """Groups by learning rate factor and decay; `lr_mult` and the parameters' `names` stand in each group.

    Norms, position biases and gate biases do not decay; other biases do, as in mmdetection's Swin recipe, or with
    `decay_biases` off no parameter of one dimension does, as in Swin's classification. Gates learn `gate_lr_mult` times
    faster.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        mult = gate_lr_mult if _GATE.search(name) else 1.0
        spared = _NO_DECAY.search(name) or (parameter.ndim < 2 and not decay_biases)
        decay = 0.0 if spared else weight_decay
        group = groups.setdefault((mult, decay), {"params": [], "names": [], "lr_mult": mult, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW, betas (.9, .999), over `param_groups`; set its rate with `set_lr` before every step."""
    groups = param_groups(
        model,
        weight_decay=config.weight_decay,
        gate_lr_mult=config.gate_lr_mult,
        decay_biases=config.decay_biases,
    )
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), fused=True)


def base_lr(config: TrainConfig, images_per_step: int) -> float:
    """The peak learning rate: lr, scaled linearly to the images of one optimizer step unless switched off."""
    return config.lr * images_per_step / config.lr_batch if config.scale_lr else config.lr


def lr_factor(step: int, *, config: TrainConfig, steps_per_epoch: int) -> float:
    """The factor on the peak learning rate at `step` (0-based): linear warm-up from 1/1000, then drops or a cosine."""
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch) if config.warmup_epochs else config.warmup
    warmup = min(warmup, total // 2)
    if config.schedule == "cosine":
        done = min(1.0, max(0, step - warmup) / max(1, total - warmup))
        share = config.min_lr_share
        factor = share + (1 - share) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        drops = sum(step >= round(share * config.epochs) * steps_per_epoch for share in config.lr_drops)
        factor = config.lr_drop_factor**drops
    if step < warmup:
        factor *= 0.001 + 0.999 * step / warmup
    return factor


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
