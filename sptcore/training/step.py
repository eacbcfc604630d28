"""One optimizer step: forward and backward over its batches, clipping, update, averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from sptcore.tasks.base import Batch, BlockCounts, Outcome, Task, add_counts, block_counts
from sptcore.training.config import TrainConfig
from sptcore.training.distill import Teacher
from sptcore.training.distributed import Group
from sptcore.training.mixing import mixed
from sptcore.training.optim import build_optimizer
from sptcore.training.sampler import step_seed
from sptcore.training.state import AveragedWeights, TrainState


@dataclass
class StepResult:
    """What a step came to. `values`: loss, its parts and the gradient's norm, over all processes; `counts`: tokens.

    `overflowed`: not taken, as float16 gradients were scaled too high; the scale is lower now.
    """

    values: dict[str, float] = field(default_factory=dict)
    counts: list[BlockCounts] = field(default_factory=list)
    overflowed: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether the loss and its gradient are finite, so that the step was taken."""
        return math.isfinite(self.values["loss"]) and math.isfinite(self.values.get("grad_norm", math.nan))


@dataclass(frozen=True, eq=False)
class Stepper:
    """Takes steps. `forward_model` is the model, or its wrapper that averages gradients over processes.

    `teacher`: who adds the losses of distillation, where there is one.
    """

    config: TrainConfig
    task: Task
    forward_model: nn.Module
    device: torch.device
    group: Group
    teacher: Teacher | None = None

    def __call__(self, state: TrainState, batches: Sequence[Batch]) -> StepResult:
        """One step on the mean loss of `batches`; left out, and said so in the result, when that is not finite."""
        state.model.train()
        result = self._accumulate(state, batches)
        if math.isfinite(result.values["loss"]):
            self._clip(state, result)
        if result.is_finite:
            state.optimizer.step()
            if state.average is not None:
                state.average.update_parameters(state.model)
        state.optimizer.zero_grad(set_to_none=True)
        return result

    def _clip(self, state: TrainState, result: StepResult) -> None:
        """Measure and limit the gradient, float16's scale taken out of it; lower the scale where it was too high.

        An overflow is a fault of the model, not of the scale, once the scale has come down to 1.
        """
        scaler = state.scaler
        if scaler is not None:
            scaler.unscale_(state.optimizer)
        limit = self.config.clip or math.inf
        result.values["grad_norm"] = float(nn.utils.clip_grad_norm_(state.model.parameters(), limit))
        if scaler is not None:
            before = scaler.get_scale()
            scaler.update()
            result.overflowed = before > 1 and scaler.get_scale() < before and not result.is_finite

    def _accumulate(self, state: TrainState, batches: Sequence[Batch]) -> StepResult:
        result = StepResult()
        group, accum = self.group, len(batches)
        for number, batch in enumerate(batches):
            place = (state.step * group.world + group.rank) * accum + number  # of this forward pass in the whole run
            torch.manual_seed(step_seed(self.config.seed, place))
            here = mixed(batch.to(self.device), self.config, place)
            with nullcontext() if number == accum - 1 else group.apart(self.forward_model):
                outcome = self._forward(here)
                self._note(outcome, here, result, share=1 / (accum * group.world))
                if not math.isfinite(result.values["loss"]):
                    break
                loss = outcome.total / accum
                (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        return result

    def _note(self, outcome: Outcome, batch: Batch, result: StepResult, *, share: float) -> None:
        """Add the losses and tokens of one forward pass, all processes together, to what the step came to."""
        for name, value in self._shared(outcome).items():
            result.values[name] = result.values.get(name, 0.0) + value * share
        counts = self._shared_counts(block_counts(outcome.features, batch.select_labels))
        result.counts = add_counts(result.counts, counts)

    def _forward(self, batch: Batch) -> Outcome:
        dtype = amp_dtype(self.config, self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            outcome = self.task.outcome(self.forward_model, batch, select_loss_weight=self.config.select_loss_weight)
            return outcome if self.teacher is None else self.teacher.teach(outcome, batch)

    def _shared(self, outcome: Outcome) -> dict[str, float]:
        """The loss and its parts, summed over processes, so that all of them see the same and act alike."""
        parts = dict(zip(outcome.losses, torch.stack(list(outcome.losses.values())).tolist(), strict=True))
        own = {"loss": sum(parts.values()), **parts}
        return dict(zip(own, self.group.sums(list(own.values())), strict=True))

    def _shared_counts(self, counts: list[BlockCounts]) -> list[BlockCounts]:
        """The tokens of all processes."""
        if self.group.world == 1:
            return counts
        names = ("valid", "selected", "own", "positive", "hit", "slots")
        sums = iter(self.group.sums([getattr(one, name) or 0 for one in counts for name in names]))
        summed = [{name: int(next(sums)) for name in names} for _ in counts]
        return [
            replace(one, **{**values, "own": None if one.own is None else values["own"]})
            for one, values in zip(counts, summed, strict=True)
        ]


def amp_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast in forward passes, None for float32 throughout."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
    return named[("bf16" if device.type == "cuda" else "off") if config.amp == "auto" else config.amp]


def start_state(model: nn.Module, config: TrainConfig, device: torch.device) -> TrainState:
    """What a run holds beside its data before its first step: averaged weights, optimizer, float16's scaler."""
    average = AveragedWeights(model, config.ema) if config.ema else None
    return TrainState(model, build_optimizer(model, config), average, make_scaler(config, device))


def make_scaler(config: TrainConfig, device: torch.device) -> GradScaler | None:
    """What keeps float16 gradients from vanishing; None in other dtypes, whose range needs none."""
    return GradScaler(device.type) if amp_dtype(config, device) == torch.float16 else None


Step = Callable[[TrainState, Sequence[Batch]], StepResult]
