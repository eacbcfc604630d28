"""How long things take: one protocol for `spt profile` and for the benchmarks.

Rivals run in one process, one after the other in every round, so that a busy moment of the machine meets all of them;
warm-up rounds are thrown away, the median is the figure, and rounds in which the kernel reports that threads waited for
a processor are marked. Ratios between rivals of one run are what holds; seconds are this machine's.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from sptcore.progress import SILENT, Progress

STALL_LIMIT = 0.05  # share of a round in which some thread waited for a processor
PRESSURE_FILE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class Timing:
    """Every round of one rival: wall and processor seconds, and the share in which threads waited (None: unknown)."""

    name: str
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    stall: tuple[float | None, ...]

    @property
    def rounds(self) -> int:
        """How many rounds were counted."""
        return len(self.wall)

    @property
    def median(self) -> float:
        """Median wall seconds (p50)."""
        return float(np.median(self.wall))

    @property
    def p95(self) -> float:
        """95th percentile of wall seconds, interpolated; with few rounds, near the slowest."""
        return float(np.percentile(self.wall, 95))

    @property
    def cpu_median(self) -> float:
        """Median processor seconds of the whole process, all threads."""
        return float(np.median(self.cpu))

    @property
    def stalled_rounds(self) -> int:
        """Rounds in which threads waited for a processor more than STALL_LIMIT of the time."""
        return sum(share is not None and share > STALL_LIMIT for share in self.stall)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON, seconds."""
        return {
            "name": self.name,
            "rounds": self.rounds,
            "p50_s": self.median,
            "p95_s": self.p95,
            "min_s": min(self.wall),
            "max_s": max(self.wall),
            "cpu_p50_s": self.cpu_median,
            "stalled_rounds": self.stalled_rounds,
            "pressure_known": any(share is not None for share in self.stall),
        }


@dataclass(frozen=True)
class Protocol:
    """`warmup` rounds unseen, then `rounds`; with a `budget` in seconds, as many as fit by the pace of the warm-up.

    A budget never cuts below `least` rounds, and asks for at least one round of warm-up.
    """

    warmup: int = 2
    rounds: int = 7
    budget: float | None = None
    least: int = 3

    def planned(self, pace: float) -> int:
        """Rounds to count when one round of all rivals takes `pace` seconds."""
        if self.budget is None:
            return self.rounds
        fitting = int(self.budget / max(pace, 1e-9)) - self.warmup
        return min(self.rounds, max(self.least, fitting))


def measure(
    rivals: Mapping[str, Callable[[], object]],
    protocol: Protocol | None = None,
    *,
    device: torch.device | str = "cpu",
    title: str = "timing",
    progress: Progress = SILENT,
) -> dict[str, Timing]:
    """Time `rivals` interleaved: every round calls each once, in order. Returns a Timing by name.

    On CUDA each call is timed between two events. Raises ValueError for a budget without warm-up.
    """
    protocol = protocol or Protocol()
    if protocol.budget is not None and protocol.warmup < 1:
        raise ValueError("a budget needs a round of warm-up to tell the pace")
    device = torch.device(device)
    begun = time.perf_counter()
    _rounds(rivals, protocol.warmup, device, f"{title}: warm-up", progress)
    pace = (time.perf_counter() - begun) / max(1, protocol.warmup)
    rounds = _rounds(rivals, protocol.planned(pace), device, title, progress)
    return {name: _timing(name, [taken[name] for taken in rounds]) for name in rivals}


def _rounds(
    rivals: Mapping[str, Callable[[], object]], count: int, device: torch.device, title: str, progress: Progress
) -> list[dict[str, _Sample]]:
    rounds = []
    progress.start(title, count * len(rivals))
    for _ in range(count):
        taken = {}
        for name, call in rivals.items():
            taken[name] = _once(call, device)
            progress.advance(1, at=name)
        rounds.append(taken)
    progress.finish()
    return rounds


@dataclass(frozen=True)
class _Sample:
    wall: float
    cpu: float
    stall: float | None


def _timing(name: str, taken: Sequence[_Sample]) -> Timing:
    return Timing(
        name,
        tuple(sample.wall for sample in taken),
        tuple(sample.cpu for sample in taken),
        tuple(sample.stall for sample in taken),
    )


def _once(call: Callable[[], object], device: torch.device) -> _Sample:
    """One call, with nothing pending on the device before it and nothing left after it."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        stream = torch.cuda.current_stream(device)  # an event records on the current device's, which may be another
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(stream)
    stalled, cpu, wall = stall_seconds(), time.process_time(), time.perf_counter()
    call()
    if on_gpu:
        last.record(stream)
        torch.cuda.synchronize(device)
    wall, cpu, after = time.perf_counter() - wall, time.process_time() - cpu, stall_seconds()
    stall = None if stalled is None or after is None else (after - stalled) / max(wall, 1e-9)
    return _Sample(first.elapsed_time(last) / 1e3 if on_gpu else wall, cpu, stall)


def stall_seconds() -> float | None:
    """Seconds since boot in which some thread of the machine waited for a processor; None where Linux does not tell."""
    try:
        line = PRESSURE_FILE.read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return int(line.rpartition("total=")[2]) / 1e6


def peak_memory(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes of tensors that `call` holds at its worst moment, beyond what lived before it (weights, inputs).

    CUDA: the caching allocator's own peak. CPU: every allocation and release, as the profiler records them; what
    libraries such as MKL take for themselves is not in it. The figure is the same on every run.
    """
    device = torch.device(device)
    gc.collect()  # what nobody holds any more, freed in the middle, would hide what the call takes
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        call()
    return _highest(profile)


def _highest(profile: torch.profiler.profile) -> int:
    """The greatest running sum of the profiler's allocation records."""
    records: list[Any] = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    steps = sorted((event.start_ns(), event.nbytes()) for event in records if event.name() == "[memory]")
    held = np.cumsum([0, *(size for _, size in steps)], dtype=np.int64)
    return int(held.max())


def environment(device: torch.device | str = "cpu") -> dict[str, object]:
    """What a figure depends on: machine, threads, versions, allocator settings, treatment of denormals."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor_name(),
        "device_type": device.type,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda if on_gpu else None,
        "flush_denormal": bool(torch.tensor(1e-39) * 1 == 0),
        "allocator": allocator(),
        "platform": platform.platform(),
    }


def allocator() -> str:
    """The settings of the C allocator that change how large temporaries are served, or "default"."""
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD")
    set_here = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    return " ".join(set_here) or "default"


def processor_name() -> str:
    """The processor's model name, as Linux gives it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
