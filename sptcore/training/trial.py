"""What a run would take: two steps of it, timed, nothing written."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from sptcore.models.bodies import apply_schedule
from sptcore.progress import SILENT, Progress
from sptcore.runs.device import pick_device
from sptcore.training.autobatch import fitting_batch
from sptcore.training.compiled import compile_dense_parts
from sptcore.training.config import TrainConfig
from sptcore.training.distill import load_teacher
from sptcore.training.distributed import ALONE
from sptcore.training.loading import BatchLoader
from sptcore.training.optim import base_lr, lr_factor, set_lr
from sptcore.training.prepare import build_model, memory_mb, prepare
from sptcore.training.sampler import EpochSampler
from sptcore.training.step import Stepper, start_state
from sptcore.training.threads import fitting_threads


@dataclass(frozen=True)
class Trial:
    """The estimate. `seconds` for all `steps`, without validation, from the second of two steps; memory at its peak."""

    device: str
    parameters: int
    images: int
    classes: int
    masks: bool
    steps: int
    seconds_per_step: float
    seconds: float
    memory_mb: float
    loss: float


def try_run(config: TrainConfig, progress: Progress = SILENT) -> Trial:
    """Take the first two steps of the run `config` describes and extrapolate; raises what `fit` raises."""
    device = pick_device(config.device)
    with fitting_threads(config.res, device):
        return _try(config, device, progress)


def _try(config: TrainConfig, device: torch.device, progress: Progress) -> Trial:
    prepared = prepare(config, progress)
    if config.batch == 0:
        config = config.model_copy(update={"batch": fitting_batch(config, prepared, device, progress=progress)})
    model = build_model(prepared.task, prepared.spec, config, progress).to(device)
    if config.compile:
        compile_dense_parts(model, device)
    state = start_state(model, config, device)
    teacher = load_teacher(config, model, prepared.spec, device)
    step = Stepper(config, prepared.task, model, device, ALONE, teacher)
    sampler = EpochSampler(len(prepared.train), config.batch, config.seed)
    dealt = EpochSampler(len(prepared.train), config.batch * config.accum, world=config.world)
    steps_per_epoch = dealt.steps_per_epoch
    seconds, loss = 0.0, 0.0
    for _ in range(2):
        started = time.perf_counter()
        draws = [next(sampler.batches(number)) for number in range(config.accum)]
        factor = lr_factor(state.step, config=config, steps_per_epoch=steps_per_epoch)
        set_lr(state.optimizer, base_lr(config, config.batch * config.accum) * factor)
        apply_schedule(model, state.step / (config.epochs * steps_per_epoch))
        result = step(state, list(BatchLoader(prepared.train).batches(draws)))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        state.step += 1
        seconds, loss = time.perf_counter() - started, result.values["loss"]
    steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
    return Trial(
        device=str(device),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        images=len(prepared.train),
        classes=len(prepared.spec.categories),
        masks=prepared.spec.masks,
        steps=steps,
        seconds_per_step=seconds,
        seconds=seconds * steps,
        memory_mb=memory_mb(device),
        loss=loss,
    )
