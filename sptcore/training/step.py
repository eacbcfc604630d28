"""One optimizer step: forward and backward over its batches, clipping, update, averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from sptcore.tasks.base import Batch, BlockCounts, Outcome, Task, add_counts, block_counts
from sptcore.training.config import TrainConfig
from sptcore.training.distributed import Group
from sptcore.training.sampler import step_seed
from sptcore.training.state import TrainState


@dataclass
class StepResult:
    """What a step came to. `values`: loss, its parts and the gradient's norm, over all processes; `counts`: tokens."""

    values: dict[str, float] = field(default_factory=dict)
    counts: list[BlockCounts] = field(default_factory=list)

    @property
    def is_finite(self) -> bool:
        """Whether the loss and its gradient are finite, so that the step was taken."""
        return math.isfinite(self.values["loss"]) and math.isfinite(self.values.get("grad_norm", math.nan))


@dataclass(frozen=True, eq=False)
class Stepper:
    """Takes steps. `forward_model` is the model, or its wrapper that averages gradients over processes."""

    config: TrainConfig
    task: Task
    forward_model: nn.Module
    device: torch.device
    group: Group

    def __call__(self, state: TrainState, batches: Sequence[Batch]) -> StepResult:
        """One step on the mean loss of `batches`; left out, and said so in the result, when that is not finite."""
        state.model.train()
        result = self._accumulate(state, batches)
        if math.isfinite(result.values["loss"]):
            limit = self.config.clip or math.inf
            result.values["grad_norm"] = float(nn.utils.clip_grad_norm_(state.model.parameters(), limit))
        if result.is_finite:
            state.optimizer.step()
            if state.average is not None:
                state.average.update_parameters(state.model)
        state.optimizer.zero_grad(set_to_none=True)
        return result

    def _accumulate(self, state: TrainState, batches: Sequence[Batch]) -> StepResult:
        result = StepResult()
        for number, batch in enumerate(batches):
            torch.manual_seed(step_seed(self.config.seed, state.step * len(batches) + number, self.group.rank))
            here = batch.to(self.device)
            outcome = self._forward(here)
            share = 1 / (len(batches) * self.group.world)
            for name, value in self._shared(outcome).items():
                result.values[name] = result.values.get(name, 0.0) + value * share
            counts = self._shared_counts(block_counts(outcome.features, here.select_labels))
            result.counts = add_counts(result.counts, counts)
            if not math.isfinite(result.values["loss"]):
                break
            (outcome.total / len(batches)).backward()
        return result

    def _forward(self, batch: Batch) -> Outcome:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=uses_bf16(self.config, self.device)):
            return self.task.outcome(self.forward_model, batch, select_loss_weight=self.config.select_loss_weight)

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


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether forward passes run in bfloat16."""
    return config.amp == "bf16" or (config.amp == "auto" and device.type == "cuda")


Step = Callable[[TrainState, Sequence[Batch]], StepResult]
