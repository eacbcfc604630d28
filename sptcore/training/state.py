"""The state of a run between two steps: all of it goes into a checkpoint, and from a checkpoint it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel

from sptcore.errors import IntegrityError
from sptcore.tasks.base import ModelSpec
from sptcore.training.config import TrainConfig
from sptcore.training.meters import Meters

_SCHEMA = "spt.checkpoint/1"


class AveragedWeights(AveragedModel):
    """Exponential moving average whose decay grows from 0.1 with the updates, so that the first weights fade soon."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """One update by the weights of `model`, the first of them a copy; buffers are copied. Waits for no device."""
        updates = int(self.n_averaged)  # kept on the CPU
        now = min(self.decay, (1 + updates) / (10 + updates)) if updates else 0.0
        own: list[Tensor] = [*self.module.parameters()]
        current: list[Tensor] = [*model.parameters()]
        torch._foreach_lerp_(own, current, 1 - now)  # pyright: ignore[reportPrivateImportUsage]
        for averaged, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            averaged.copy_(buffer)
        self.n_averaged += 1


@dataclass
class TrainState:
    """Model, averaged weights, optimizer, scaler of float16 gradients, and the counters of a run.

    `step` optimizer steps are done, of which `skipped` were left out as the loss was not finite, and `overflowed` as
    float16 gradients were scaled too high. `best` is the best validation's figure, `best_at` its step; -1 before one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedWeights | None = None
    scaler: GradScaler | None = None
    step: int = 0
    skipped: int = 0
    overflowed: int = 0
    bad_in_row: int = 0
    evaluated_at: int = -1
    best: float = -1.0
    best_at: int = -1
    meters: Meters = field(default_factory=Meters)

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged model where one is kept, else the model."""
        return self.model if self.average is None else self.average.module

    def to_checkpoint(self, config: TrainConfig, spec: ModelSpec) -> dict[str, Any]:
        """Everything as tensors, numbers, text, lists and dicts. No generator state: draws have no memory (sampler)."""
        return {
            "schema": _SCHEMA,
            "torch": str(torch.__version__),
            "config": config.model_dump_json(),
            "spec": json.dumps(spec.to_dict()),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "overflowed": self.overflowed,
            "bad_in_row": self.bad_in_row,
            "evaluated_at": self.evaluated_at,
            "best": self.best,
            "best_at": self.best_at,
            "meters": asdict(self.meters),
        }

    def restore(self, saved: Mapping[str, Any], spec: ModelSpec, *, where: str) -> None:
        """Take over a checkpoint's content. Raises IntegrityError when it belongs to another model."""
        if saved.get("schema") != _SCHEMA:
            raise IntegrityError(f"a checkpoint of schema {saved.get('schema')!r}, not {_SCHEMA!r}", where=where)
        theirs = json.loads(saved["spec"])
        if theirs != json.loads(json.dumps(spec.to_dict())):
            ours = json.loads(json.dumps(spec.to_dict()))
            raise IntegrityError(
                f"the checkpoint is of another model: {describe_difference(theirs, ours)}", where=where
            )
        try:
            self.model.load_state_dict(saved["model"])
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.scaler is not None:
                self.scaler.load_state_dict(saved["scaler"])
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise IntegrityError(f"the checkpoint does not fit: {str(error).splitlines()[0]}", where=where) from error
        for name in ("step", "skipped", "bad_in_row", "evaluated_at", "best"):
            setattr(self, name, saved[name])
        self.overflowed = saved.get("overflowed", 0)  # not in the checkpoints of runs before float16
        self.best_at = saved.get("best_at", -1)
        self.meters = Meters.from_dict(saved["meters"])


def describe_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> str:
    """`"backbone.depths [2, 2, 6, 2], here [2, 2, 2, 2]; ..."`: the first differences of two nested descriptions."""
    differences = []
    for name in sorted({*theirs, *ours}):
        one, other = theirs.get(name), ours.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            differences.append(describe_difference(one, other, f"{prefix}{name}."))
        else:
            differences.append(f"{prefix}{name} {str(one)[:80]}, here {str(other)[:80]}")
    return "; ".join(differences[:4])
