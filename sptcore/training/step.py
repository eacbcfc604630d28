"""One optimizer step: forward and backward over its batches, clipping, update, averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sptcore.tasks.base import Batch, BlockCounts, CountRows, Outcome, Task, add_counts, count_rows
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
class _Pass:
    """What one forward pass came to, on the device: `losses` (names,) float64, their sum first, and tokens."""

    names: tuple[str, ...]
    losses: Tensor
    counts: CountRows

    @classmethod
    def of(cls, outcome: Outcome, batch: Batch) -> _Pass:
        parts = torch.stack([loss.detach() for loss in outcome.losses.values()]).double()
        total = sum(parts.unbind(), parts.new_zeros(()))
        return cls(
            ("loss", *outcome.losses),
            torch.cat([total[None], parts]),
            count_rows(outcome.features, batch.select_labels),
        )

    @property
    def numbers(self) -> Tensor:
        """All of it in one row, float64."""
        return torch.cat([self.losses, self.counts.rows.to(self.losses).flatten()])


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
        passes = self._accumulate(state, batches)
        norm = self._clip(state) if state.scaler is None else None
        result = self._read(passes, norm)
        if state.scaler is not None and math.isfinite(result.values["loss"]):
            self._clip_scaled(state, state.scaler, result)
        if result.is_finite:
            state.optimizer.step()
            if state.average is not None:
                state.average.update_parameters(state.model)
        state.optimizer.zero_grad(set_to_none=True)
        return result

    def _clip(self, state: TrainState) -> Tensor:
        """Limit the gradient where the settings ask for that; its norm, left on the device."""
        parameters = [*state.model.parameters()]
        norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        if self.config.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip, norm)
        return norm

    def _clip_scaled(self, state: TrainState, scaler: GradScaler, result: StepResult) -> None:
        """Measure and limit the gradient, float16's scale taken out of it; lower the scale where it was too high.

        An overflow is a fault of the model, not of the scale, once the scale has come down to 1.
        """
        scaler.unscale_(state.optimizer)
        result.values["grad_norm"] = float(self._clip(state))
        before = scaler.get_scale()
        scaler.update()
        result.overflowed = before > 1 and scaler.get_scale() < before and not result.is_finite

    def _accumulate(self, state: TrainState, batches: Sequence[Batch]) -> list[_Pass]:
        """Forward and backward passes over `batches`, behind one that is not finite too: nobody waits to know."""
        group, accum, passes = self.group, len(batches), []
        for number, batch in enumerate(batches):
            place = (state.step * group.world + group.rank) * accum + number  # of this forward pass in the whole run
            torch.manual_seed(step_seed(self.config.seed, place))
            here = mixed(batch, self.config, place, self.device)
            with nullcontext() if number == accum - 1 else group.apart(self.forward_model):
                outcome = self._forward(here)
                passes.append(_Pass.of(outcome, here))
                loss = outcome.total / accum
                (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        return passes

    def _read(self, passes: Sequence[_Pass], norm: Tensor | None) -> StepResult:
        """What the step came to, all processes together; without a scaler this is where the host waits, once."""
        shared = self.group.summed(torch.cat([one.numbers for one in passes]))
        length = shared.new_full((1,), math.nan) if norm is None else norm.to(shared)[None]
        *numbers, grad_norm = torch.cat([shared, length]).tolist()
        result, left, share = StepResult(), iter(numbers), 1 / (len(passes) * self.group.world)
        for one in passes:
            for name in one.names:
                result.values[name] = result.values.get(name, 0.0) + next(left) * share
            rows = [[next(left) for _ in range(one.counts.rows.shape[1])] for _ in one.counts.places]
            result.counts = add_counts(result.counts, one.counts.read(rows))
        if norm is not None and math.isfinite(result.values["loss"]):
            result.values["grad_norm"] = grad_norm
        return result

    def _forward(self, batch: Batch) -> Outcome:
        dtype = amp_dtype(self.config, self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            outcome = self.task.outcome(self.forward_model, batch, select_loss_weight=self.config.select_loss_weight)
            return outcome if self.teacher is None else self.teacher.teach(outcome, batch)


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
