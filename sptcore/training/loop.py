"""fit(): the training loop. One walk from settings to weights, which can stop and go on between any two steps."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sptcore.errors import IntegrityError, NumericalError, UsageError
from sptcore.files import write_atomically
from sptcore.models.bodies import apply_schedule
from sptcore.progress import SILENT, Progress
from sptcore.runs import MetricsLog, Run, go_on_from, save_checkpoint, save_weights
from sptcore.runs.device import pick_device
from sptcore.runs.tensorboard import TensorBoardLog, require_tensorboard
from sptcore.tasks.base import Batch
from sptcore.training.autobatch import fitting_batch
from sptcore.training.compiled import compile_dense_parts, uncompiled
from sptcore.training.config import TrainConfig, parse_interval
from sptcore.training.distill import load_teacher
from sptcore.training.distributed import ALONE, Group
from sptcore.training.evaluate import Evaluation, Interrupted, Running, evaluate_model
from sptcore.training.explained import explained
from sptcore.training.loading import BatchLoader, default_workers
from sptcore.training.meters import Meters, Pace, shown_values
from sptcore.training.optim import base_lr, lr_factor, set_lr
from sptcore.training.prepare import Prepared, build_model, memory_mb, prepare, set_determinism
from sptcore.training.resuming import (
    check_resumable,
    clear_leftovers,
    found_state,
    passes_each,
    resume_command,
    sharing_line,
    was_shared,
)
from sptcore.training.sampler import Draw, EpochSampler
from sptcore.training.step import Stepper, StepResult, start_state
from sptcore.training.stop import StopRequest, stop_requests
from sptcore.training.threads import fitting_threads


@dataclass(frozen=True)
class FitReport:
    """What a training run came to. `stopped`: None when it is complete, else what stopped it before its end.

    `figures`: names of the task's figures that are worth telling, the one that decides first.
    """

    run: Run
    step: int
    total_steps: int
    skipped: int
    stopped: str | None
    evaluation: Evaluation | None
    seconds: float
    figures: tuple[str, ...] = ()

    @property
    def resume_command(self) -> str:
        """What goes on with this run."""
        return resume_command(self.run)


def fit(
    config: TrainConfig,
    run: Run,
    *,
    resume: bool | Path = False,
    time_limit: float | None = None,
    progress: Progress = SILENT,
) -> FitReport:
    """Train as `config` says and leave everything in the folder of `run`; `resume` goes on from its last checkpoint.

    A path as `resume` is the checkpoint of the run to go back to; what came after it is dropped.

    Raises NumericalError after `max_bad_steps` non-finite losses in a row, ResourceError when memory runs out, and
    IntegrityError when no checkpoint is whole; the last good checkpoint stays in each case.
    """
    trainer = make_trainer(config, progress=progress, regroup=bool(resume))
    return trainer.fit(run, resume=resume, time_limit=time_limit)


def make_trainer(
    config: TrainConfig,
    *,
    group: Group = ALONE,
    device: torch.device | None = None,
    progress: Progress = SILENT,
    regroup: bool = False,
) -> Trainer:
    """Everything a run needs before it has a folder: data, labels, model, optimizer, on `device` or the config's.

    `regroup`: another number of processes than the settings say may share a step, at as many images, by accumulating.
    Raises what is wrong with the settings, the data or the starting weights.
    """
    if group.world != config.world and not regroup:
        message = f"the settings are for {config.world} processes, there are {group.world}"
        raise UsageError(message, hint="spt train --devices N starts them")
    passes_each(config, group.world)
    if "tensorboard" in config.log:
        require_tensorboard()
    device, prepared = device or pick_device(config.device), prepare(config, progress)
    if config.batch == 0:
        batch = fitting_batch(config, prepared, device, group=group, progress=progress)
        config = config.model_copy(update={"batch": batch})
    return Trainer(config, prepared, device, group, progress)


class Trainer:
    """One process's part of a training run."""

    run: Run
    log: MetricsLog
    board: TensorBoardLog | None = None

    def __init__(
        self, config: TrainConfig, prepared: Prepared, device: torch.device, group: Group, progress: Progress
    ) -> None:
        self.config, self.prepared, self.device = config, prepared, device
        self.group, self.progress = group, progress
        set_determinism(config)
        model = build_model(prepared.task, prepared.spec, config, progress).to(self.device)
        if config.compile:
            compile_dense_parts(model, self.device)
        self.state = start_state(model, config, self.device)
        teacher = load_teacher(config, model, prepared.spec, self.device)
        self.take_step = Stepper(config, prepared.task, group.wrap(model, self.device), self.device, group, teacher)
        self.accum = passes_each(config, group.world)  # of each process, whatever the settings' own count of them
        images = config.batch * self.accum
        self.sampler = EpochSampler(len(prepared.train), images, config.seed, rank=group.rank, world=group.world)
        self.images_per_step = images * group.world
        full = config.epochs * self.sampler.steps_per_epoch
        self.total_steps = min(full, config.max_steps or full)
        self.workers = default_workers(config.res, os.cpu_count() or 1) if config.workers is None else config.workers
        self.saved_at = self.best_saved_at = -1
        self.bad_batches: list[dict[str, Any]] = []
        self.evaluation: Evaluation | None = None
        self.clock, self.timed = time.monotonic(), 0  # since when, and for how many images, the next row counts
        self.pace = Pace(self.images_per_step)

    # -- the walk --------------------------------------------------------------------------------------------------

    def fit(self, run: Run, *, resume: bool | Path = False, time_limit: float | None = None) -> FitReport:
        """Train into the folder of `run`, or go on there; see `fit` for what it raises."""
        self.run, self.log = run, MetricsLog(run.home)
        if resume:
            check_resumable(self.config, run)
            self._resume(resume if isinstance(resume, Path) else None)
        else:
            if self.group.is_leader:
                write_atomically(run.home / "config.toml", self.config.to_toml())
            self._tell_sharing((self.config.world, self.config.accum))
        if "tensorboard" in self.config.log and self.group.is_leader:
            self.board = TensorBoardLog(run.home, step=self.state.step, rows=run.metrics())
        threads = fitting_threads(self.config.res, self.device)
        with explained(self.config, run), threads, stop_requests(time_limit) as stop:
            return self._train(stop)

    def _train(self, stop: StopRequest) -> FitReport:
        """Steps, validations and checkpoints until the end or until `stop`."""
        started = time.monotonic()
        self.clock = self.pace.start()
        self.progress.start(f"training {self.config.model}", self.total_steps, done=self.state.step)
        with BatchLoader(self.prepared.train, workers=self.workers, pin=self.device.type == "cuda") as loader:
            cause = self._walk(self._batches(loader), stop)
        self.progress.finish()
        self._conclude(cause)
        seconds = time.monotonic() - started
        step, skipped = self.state.step, self.state.skipped
        figures = tuple(self.prepared.task.figures)
        return FitReport(self.run, step, self.total_steps, skipped, cause, self.evaluation, seconds, figures)

    def _walk(self, batches: Iterator[tuple[Batch, ...]], stop: StopRequest) -> str | None:
        while True:
            cause = self.group.told(stop.cause)  # to any of the processes: all stop, and the leader saves
            if cause is None and self._evaluation_due():
                cause = self._evaluate(stop)
            if cause is not None or self._checkpoint_due() or self._best_is_new():
                self._save()
            if cause is not None or self.state.step >= self.total_steps:
                return cause
            self._step(next(batches))
            if self.state.step == 1 and self.group.is_leader:
                self.run.make_latest("train")  # not before: a run that cannot even begin is nobody's last

    def _batches(self, loader: BatchLoader) -> Iterator[tuple[Batch, ...]]:
        """The forward passes of each step, from the current one on."""
        per_epoch, accum = self.sampler.steps_per_epoch, self.accum
        first = self.state.step
        for epoch in range(first // per_epoch, self.config.epochs):
            skip = max(0, first - epoch * per_epoch)
            parts = (part for draws in self.sampler.batches(epoch, skip=skip) for part in self._split(draws))
            yield from zip(*[loader.batches(parts)] * accum, strict=True)

    def _split(self, draws: list[Draw]) -> list[list[Draw]]:
        return [draws[first : first + self.config.batch] for first in range(0, len(draws), self.config.batch)]

    def _step(self, batches: tuple[Batch, ...]) -> None:
        config, state = self.config, self.state
        factor = lr_factor(state.step, config=config, steps_per_epoch=self.sampler.steps_per_epoch)
        lr = base_lr(config, self.images_per_step) * factor
        set_lr(state.optimizer, lr)
        apply_schedule(state.model, state.step / (config.epochs * self.sampler.steps_per_epoch))
        result = self.take_step(state, batches)
        if result.is_finite:
            state.bad_in_row = 0
            self.bad_batches.clear()
            state.meters.add({"lr": lr, **result.values}, result.counts, self.images_per_step)
        elif result.overflowed:
            state.overflowed += 1
        else:
            self._skip(batches, result)
        state.step += 1
        self.timed += self.images_per_step
        self._report(result)

    def _skip(self, batches: tuple[Batch, ...], result: StepResult) -> None:
        """Count a step that was not taken; raise NumericalError when there were too many in a row."""
        state = self.state
        state.skipped += 1
        state.bad_in_row += 1
        own = [image_id for batch in batches for image_id in batch.image_ids]
        ids = [image_id for of_rank in self.group.gathered(own) for image_id in of_rank]
        values = {name: f"{value:.6g}" for name, value in result.values.items()}
        self.bad_batches.append({"step": state.step, "image_ids": ids, "values": values})
        self._warn(f"step {state.step}: the loss is not finite, the step is skipped (images {ids})")
        if state.bad_in_row >= self.config.max_bad_steps:
            where = self.run.write_json("bad-batches.json", self.bad_batches) if self.group.is_leader else None
            raise NumericalError(
                f"the loss was not finite {state.bad_in_row} times in a row",
                where=str(where),
                hint="lower --lr, set --clip, or look at these images; the last good checkpoint is kept",
            )

    # -- what is told ----------------------------------------------------------------------------------------------

    def _report(self, result: StepResult) -> None:
        state, meters = self.state, self.state.meters
        self.progress.advance(1, **shown_values(result.values, result.counts), **self.pace.step(self.device))
        if state.step % self.config.log_every == 0 or state.step == self.total_steps:
            if meters.steps:
                now = time.monotonic()
                counted = {"skipped": state.skipped}
                if state.scaler is not None:
                    counted |= {"overflowed": state.overflowed, "grad_scale": state.scaler.get_scale()}
                self._log({**meters.row(), **counted}, seconds=now - self.clock, images=self.timed)
                self.clock, self.timed = now, 0
            state.meters = Meters()

    def _log(self, values: dict[str, Any], *, seconds: float, images: int) -> None:
        """A row of metrics; its timing columns come last and are the only ones that differ when a run is repeated."""
        if not self.group.is_leader:
            return
        step = self.state.step
        timing = {"seconds": round(seconds, 3), "img_per_s": round(images / max(seconds, 1e-9), 2)}
        epoch = step / self.sampler.steps_per_epoch
        row = {"step": step, "epoch": epoch, **values, **timing, "memory_mb": round(memory_mb(self.device))}
        self.log.append(row)
        if self.board is not None:
            self.board.append(row)

    def _warn(self, message: str) -> None:
        if self.group.is_leader:
            self.progress.warn(message)
            self.run.log(f"warning: {message}")

    # -- validation ------------------------------------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self.config.eval_every * self.sampler.steps_per_epoch
        if step >= self.total_steps:
            return self.evaluation is None or self.state.evaluated_at != step
        return step > 0 and every > 0 and step % every == 0 and self.state.evaluated_at != step

    def _evaluate(self, stop: StopRequest) -> str | None:
        """Validate, each process its share; the cause when that was cut short."""
        started, state, prepared = time.monotonic(), self.state, self.prepared
        running = Running(self.device, self.config.batch, self.workers, group=self.group)
        model = state.evaluated_model.eval()
        try:
            with uncompiled() if self.config.compile else nullcontext():
                self.evaluation = evaluate_model(
                    prepared.task, model, prepared.spec, prepared.val, prepared.val_index, running=running, stop=stop
                )
        except Interrupted:
            return self.group.told(stop.cause)
        if self.group.is_leader:
            self._tell_validation(started)
        state.evaluated_at = state.step
        return None

    def _tell_validation(self, started: float) -> None:
        """Log what the validation that began at `started` came to, and keep the weights when they are the best."""
        assert self.evaluation is not None
        state, prepared = self.state, self.prepared
        values = {f"val.{name}": value for name, value in self.evaluation.figures().items()}
        if state.evaluated_at != state.step:
            self._log(values, seconds=time.monotonic() - started, images=len(prepared.val))
        self.progress.note(f"step {state.step}: {self._in_words(values)}")
        if self._main_figure() >= state.best:
            state.best, state.best_at = self._main_figure(), state.step
            self._save_weights("best")
        self.clock += self.pace.start() - started  # the steps before it, not yet in a row, keep their time

    def _main_figure(self) -> float:
        """What the last validation came to in the figure by which the best weights are chosen."""
        assert self.evaluation is not None
        return self.evaluation.figures()[next(iter(self.prepared.task.figures))]

    def _in_words(self, values: dict[str, float]) -> str:
        wanted = (*self.prepared.task.figures, "select_ratio.stage3", "label_ratio.stage3", "recall.stage3")
        return ", ".join(f"{name} {values[f'val.{name}']:.3f}" for name in wanted if f"val.{name}" in values)

    # -- what is kept ----------------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        """Whether an interval has ended; in a row of bad steps that waits, so that good checkpoints are not dropped."""
        state = self.state
        if state.step >= self.total_steps or state.bad_in_row:
            return state.step >= self.total_steps
        number, unit = parse_interval(self.config.save_every)
        every = number * (self.sampler.steps_per_epoch if unit == "ep" else 1)
        return state.step // every > max(0, self.saved_at) // every

    def _best_is_new(self) -> bool:
        """Whether the last validation was the best so far, and `best.pt` is not yet the state at it."""
        return self.state.best_at == self.state.step != self.best_saved_at

    def _save(self) -> None:
        state, best = self.state, self._best_is_new()
        if not self.group.is_leader or (self.saved_at == state.step and not best):
            return
        content = state.to_checkpoint(self.config, self.prepared.spec)
        content |= {"processes": self.group.world, "accum": self.accum}
        save_checkpoint(self.run.checkpoints, content, step=state.step, keep=self.config.keep, best=best)
        self.saved_at = state.step
        self.best_saved_at = state.best_at
        self.log.write_csv()

    def _save_weights(self, name: str) -> None:
        """Publish the evaluated weights (the averaged ones where they are kept) as `weights/<name>.safetensors`."""
        model = self.state.model if name == "last" else self.state.evaluated_model
        notes = {"step": self.state.step, "data": self.config.data, "seed": self.config.seed}
        path = self.run.home / "weights" / f"{name}.safetensors"
        save_weights(path, model.state_dict(), self.prepared.spec.to_dict(), notes=notes)

    def _conclude(self, cause: str | None) -> None:
        """The files that stay when the loop is left."""
        if not self.group.is_leader:
            return
        self._save_weights("last")
        if self.state.average is not None:
            self._save_weights("ema")
        self.log.write_csv()
        if self.board is not None:
            self.board.close()
        if self.evaluation is not None and cause is None:
            self.run.write_json("predictions.json", self.evaluation.results)
        self.run.log(f"stopped by {cause} at step {self.state.step}" if cause else f"done at step {self.state.step}")

    def _resume(self, checkpoint: Path | None = None) -> None:
        """Go on from `checkpoint`, or from the newest whole one of the run; from the start when there is none yet."""
        run, state, leads = self.run, self.state, self.group.is_leader
        if leads:
            clear_leftovers(run)
        found = found_state(run, checkpoint, self._warn)
        if found is not None:
            path, content = found
            state.restore(content, self.prepared.spec, where=str(path))
            self.saved_at, self.best_saved_at = state.step, state.best_at
            if content["torch"] != str(torch.__version__):
                self._warn(f"the checkpoint is from torch {content['torch']}, this is {torch.__version__}")
        if len({*self.group.gathered(state.step)}) > 1:
            raise IntegrityError("the processes see different checkpoints", where=str(run.checkpoints))
        if found is not None and leads:
            go_on_from(found[0], step=state.step, best=state.best_at == state.step)
        if leads:
            self.log.rewind(state.step, validated=state.evaluated_at == state.step)
            run.log(f"resumed at step {state.step}")
        self.progress.note(f"resumed at step {state.step} of {self.total_steps}")
        self._tell_sharing(was_shared(run, None if found is None else found[1]))

    def _tell_sharing(self, before: tuple[int, int]) -> None:
        """Say so when the step is shared otherwise than by `before`: processes, and the passes of each."""
        line = sharing_line(before, (self.group.world, self.accum), self.images_per_step)
        if line is None:
            return
        self.progress.note(line)
        if self.group.is_leader:
            self.run.log(line)
