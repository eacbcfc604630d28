"""`--batch auto`: the most images a forward pass can take in the memory there is, by trying."""

from __future__ import annotations

import copy
import gc
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from sptcore.data.records import ImageRecord
from sptcore.errors import ResourceError
from sptcore.labels.geometry import Geometry
from sptcore.progress import SILENT, Progress
from sptcore.tasks.base import Batch
from sptcore.training.config import TrainConfig
from sptcore.training.datasets import ImageDataset
from sptcore.training.distill import load_teacher
from sptcore.training.distributed import ALONE, Group
from sptcore.training.loading import BatchLoader
from sptcore.training.prepare import Prepared, build_model
from sptcore.training.sampler import Draw
from sptcore.training.state import TrainState
from sptcore.training.step import Stepper, start_state

SHARE = 0.9
"""Of the free memory, what a step may take at its peak."""

_MOST_ON_CPU = 64  # beyond, a CPU gains nothing from more images at once
_LOOKED_AT = 512  # images among which the most crowded are looked for


def fitting_batch(
    config: TrainConfig,
    prepared: Prepared,
    device: torch.device,
    *,
    group: Group = ALONE,
    progress: Progress = SILENT,
) -> int:
    """The largest batch of a process whose training step stays within `SHARE` of the free memory, the same on all.

    Tried with the most crowded images at the largest size the recipe draws. Raises ResourceError when one is too many.
    """
    trial = _Trial.begin(config, prepared, device)
    cap = max(1, math.ceil(len(prepared.train) / group.world))
    if device.type == "cuda":
        own, how = _on_cuda(trial, cap, device)
    else:
        own, how = _on_cpu(trial, min(cap, _MOST_ON_CPU), config.devices)
    batch = min(group.gathered(own))
    progress.note(f"batch {batch} (auto): {how}")
    return batch


@dataclass(frozen=True, eq=False)
class _Trial:
    """Steps of a model that is thrown away afterwards."""

    step: Stepper
    state: TrainState
    images: ImageDataset
    order: list[int]

    @classmethod
    def begin(cls, config: TrainConfig, prepared: Prepared, device: torch.device) -> _Trial:
        plain = config.model_copy(update={"accum": 1, "init": "none"})
        model = build_model(prepared.task, prepared.spec, plain).to(device)
        state = start_state(model, plain, device)
        teacher = load_teacher(plain, model, prepared.spec, device)
        images = copy.copy(prepared.train)
        images.geometry = Stretched(largest_frame(config, prepared.train))
        crowds = [len(record.instances) for record in islice(images.records, _LOOKED_AT)]
        order = sorted(range(len(crowds)), key=lambda index: -crowds[index])
        return cls(Stepper(plain, prepared.task, model, device, ALONE, teacher), state, images, order)

    def take(self, number: int) -> None:
        """One training step on `number` images."""
        draws = [Draw(0, self.order[place % len(self.order)]) for place in range(number)]
        batch: Batch = next(BatchLoader(self.images).batches([draws]))
        self.step(self.state, [batch])


@dataclass(frozen=True)
class Stretched:
    """Every image on all of one `frame` (width, height): the most a batch can hold."""

    frame: tuple[int, int]

    def __call__(self, record: ImageRecord, draw: Draw) -> Geometry:
        size = (record.width, record.height)
        return Geometry(size, False, (0, 0, *size), self.frame)


def largest_frame(config: TrainConfig, images: ImageDataset) -> tuple[int, int]:
    """Width and height that a batch is padded to at most: where upright and lying images meet, a square."""
    scale = max(config.scales)
    long_side, short_side = math.ceil(max(1.0, scale) * max(config.res)), math.ceil(scale * min(config.res))
    short_side = min(short_side, long_side)
    crops = config.crop_prob > 0 or config.resized_crop is not None
    lying = any(record.width > record.height for record in images.records)
    upright = any(record.height > record.width for record in images.records)
    if crops or (lying and upright):
        return long_side, long_side
    return (short_side, long_side) if upright else (long_side, short_side)


def most_that_fit(fits: Callable[[int], bool], cap: int) -> int:
    """The largest number up to `cap` that `fits`, 0 when 1 does not: doubled until one fails, then by halves."""
    good, bad = 0, cap + 1
    trial = 1
    while trial < bad:
        if not fits(trial):
            bad = trial
        else:
            good = trial
        trial = min(2 * good, cap) if good and bad > cap and good < cap else (good + bad) // 2
        if trial <= good:
            break
    return good


def _on_cuda(trial: _Trial, cap: int, device: torch.device) -> tuple[int, str]:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    budget = SHARE * (free + torch.cuda.memory_reserved(device))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trial.state.model.parameters())

    def fits(number: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            trial.take(number)
        except torch.OutOfMemoryError:
            trial.state.optimizer.zero_grad(set_to_none=True)
            return False
        return torch.cuda.max_memory_reserved(device) + weights <= budget  # several processes copy gradients to send

    number = most_that_fit(fits, cap)
    if number == 0:
        raise ResourceError("not one image fits into the memory of the device", hint="a smaller --res or --model")
    return number, f"the most within {SHARE:.0%} of {budget / SHARE / 2**30:.1f} of {total / 2**30:.1f} GB"


def _on_cpu(trial: _Trial, cap: int, processes: int) -> tuple[int, str]:
    """From the peaks of one and of two images, a straight line."""
    trial.take(1)  # what is there once, such as the optimizer's averages
    one, two = (_peak(lambda number=number: trial.take(number)) for number in (1, 2))
    each = max(two - one, 2**20)
    budget = SHARE * free_memory() / processes
    number = int(max(0, budget - (one - each)) // each)
    if number == 0:
        raise ResourceError(
            f"one image takes {one / 2**20:.0f} MB, {budget / 2**20:.0f} MB may be used", hint="a smaller --res"
        )
    how = f"{each / 2**20:.0f} MB an image, {budget / 2**20:.0f} MB may be used"
    return min(number, cap), f"{how}, at most {cap}" if number > cap else how


def _peak(work: Callable[[], None]) -> float:
    """Bytes that `work` needs at its peak, beyond what the process holds before."""
    gc.collect()  # what nobody holds any more, freed in the middle, would hide what the work takes
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _kilobytes(status, "VmRSS")
        work()
        return 1024.0 * max(0, _kilobytes(status, "VmHWM") - before)
    except OSError:
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def free_memory() -> float:
    """Bytes that this machine can still give: what is available, or less where a control group limits it."""
    try:
        free = 1024.0 * _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    except (OSError, ValueError):
        free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return min(free, float(limit) - float(used)) if limit.isdecimal() else free


def _kilobytes(path: Path, name: str) -> int:
    """The number of a line `name:  123 kB`. Raises ValueError without one."""
    found = re.search(rf"^{name}:\s+(\d+)", path.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"no {name} in {path}")
    return int(found[1])
