"""Going on with a run: which settings stay, and how its steps are shared by another number of processes.

A forward pass draws by its number in the whole run (`sampler`), and gradients are means over all passes of a step: N
processes of A passes each do what M processes of N A / M passes do, up to the order of sums.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sptcore.errors import UsageError
from sptcore.files import TEMP_MARK
from sptcore.runs import Run, latest_checkpoint, load_checkpoint
from sptcore.training.config import TrainConfig, read_config
from sptcore.training.prepare import same_labels

_SHARED = ("devices", "nodes", "accum")


def passes_each(config: TrainConfig, world: int) -> int:
    """The forward passes that each of `world` processes takes in a step of `config`.

    Raises UsageError, with the numbers of processes that would do, where they cannot be shared out evenly.
    """
    if world >= 1 and config.passes % world == 0:
        return config.passes // world
    numbers = ", ".join(str(number) for number in range(1, config.passes + 1) if config.passes % number == 0)
    message = f"a step of {config.passes} forward passes cannot be shared evenly by {world} processes"
    raise UsageError(message, hint=f"numbers of processes that keep the images of a step: {numbers}")


def shared_anew(own: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """`asked`, a resumed run's settings with other devices or nodes than its `own`, at as many images a step.

    Raises UsageError where `accum` cannot make up for the number of processes.
    """
    return asked.model_copy(update={"accum": passes_each(own, asked.world)})


def check_resumable(config: TrainConfig, run: Run) -> None:
    """Raise UsageError when `config` differs from what `run` was started with in a setting that decides the result.

    Devices, nodes and accum may differ where they come to as many forward passes a step.
    """
    own = read_config(run.home / "config.toml")
    changed = own.changed_settings(config)
    for name in ("labels", "val_labels"):
        if name in changed and None not in changed[name] and same_labels(*changed[name]):
            del changed[name]
    if own.passes == config.passes:
        changed = {name: values for name, values in changed.items() if name not in _SHARED}
    if changed:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        hint = "leave them out; or a new run, which can begin with these weights: --init RUN/weights/last.safetensors"
        raise UsageError(f"a resumed run keeps its settings: {listed}", where=str(run.home), hint=hint)


def resume_command(run: Run) -> str:
    """What goes on with this run."""
    return f"spt train --resume {shlex.quote(str(run.home))}"


def clear_leftovers(run: Run) -> None:
    """Remove what a killed process was in the middle of writing."""
    for folder in (run.home, run.checkpoints, run.home / "weights"):
        for left in folder.glob(f"{TEMP_MARK}*"):
            left.unlink(missing_ok=True)


def found_state(run: Run, checkpoint: Path | None, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, and its content: the named one, or the newest that is whole; None without any.

    Raises IntegrityError when it, or every one, is damaged.
    """
    if checkpoint is not None:
        return checkpoint, load_checkpoint(checkpoint)
    return latest_checkpoint(run.checkpoints, warn)


def was_shared(run: Run, saved: Mapping[str, Any] | None) -> tuple[int, int]:
    """Processes, and the passes of each, that took a checkpoint's last step; without one, those that were asked for."""
    asked = read_config(run.home / "config.toml")
    saved = saved or {}
    return saved.get("processes", asked.world), saved.get("accum", asked.accum)


def sharing_line(before: tuple[int, int], now: tuple[int, int], images: int) -> str | None:
    """What a person reads when a step is shared otherwise than `before`: processes, and passes of each; else None."""
    if before == now:
        return None
    own, was = (f"{processes} x {accum}" for processes, accum in (now, before))
    return f"{own} forward passes a step (processes x accum) instead of {was}: the same {images} images"
