"""What the benchmarks of networks share: their options, what a figure depends on, masks, and rows of comparison."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch loads: its profiler talks on stderr otherwise
import torch
from torch import Tensor

from sptcore.profiling.forced import blob_masks
from sptcore.profiling.macs import spa_places, stage_grids
from sptcore.profiling.rotation import Rotation, draw_inputs
from sptcore.profiling.timing import Protocol, Timing, environment
from sptcore.progress import Silent

UNEVEN = {2: (0.4, 1.6), 4: (0.2, 0.6, 1.0, 2.2)}  # times the mean ratio, over the images, up to a ratio of a quarter


class Talking(Silent):
    """One line a stage on standard output."""

    def start(self, title: str, total: int | None, *, done: int = 0) -> None:
        print(f"  {title}, {total} passes", flush=True)


def image_ratios(ratio: float, batch: int) -> list[float]:
    """The ratio of each image: uneven in a batch of two or four up to a quarter, else the same for all."""
    return [ratio * share for share in UNEVEN[batch]] if batch in UNEVEN and ratio <= 0.25 else [ratio] * batch


def draw_masks(model: Any, images: Tensor, ratio: float) -> list[Tensor]:
    """Blobs of exactly the wanted size, another one in every selecting block."""
    generator = torch.Generator().manual_seed(1)
    grids = stage_grids(images.shape[-2], images.shape[-1])
    shares = image_ratios(ratio, len(images))
    places = spa_places(model.config)
    return [blob_masks(len(images), grids[stage - 1], shares, generator).to(images.device) for stage, _ in places]


def parser(description: str | None, *, models: str, batch: str, rounds: int = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--models", default=models, help="of t, s, b")
    made.add_argument("--batch", default=batch)
    made.add_argument("--res", default="1280x800", help="width x height")
    made.add_argument("--warmup", type=int, default=2)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, help="of torch; by default its own choice")
    made.add_argument("--device", default="cpu")
    made.add_argument("--json", type=Path, help="write everything here too")
    return made


def size_of(options: argparse.Namespace) -> tuple[int, int]:
    """(height, width) in pixels."""
    width, height = (int(side) for side in options.res.split("x"))
    return height, width


def inputs_of(options: argparse.Namespace, batch: int) -> tuple[Tensor, ...]:
    """Images (batch, 3, H, W) that take turns on a GPU; on a CPU one set."""
    return draw_inputs((batch, 3, *size_of(options)), torch.device(options.device), seed=2)


def in_turn(inputs: Sequence[Tensor], forward: Callable[[Tensor], Any]) -> Callable[[], Any]:
    """`forward` of the next of `inputs`, at each call."""
    rotation = Rotation(inputs)
    return lambda: forward(rotation.next())


def protocol_of(options: argparse.Namespace) -> Protocol:
    """Rounds as asked for."""
    return Protocol(warmup=options.warmup, rounds=options.rounds)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within it, torch computes in `count` threads, or as many as it likes."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions, threads, allocator, commit and date. Call it inside `threads`."""
    return {
        "environment": environment(torch.device(options.device)),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "warmup": options.warmup,
        "contests": [],
    }


def commit() -> str | None:
    """The commit of the tree this file lies in, with "+" where it was changed since; None outside of git."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()[:12] + "+" * bool(changed.stdout.strip())


def speed_ups(timing: Timing, times: Mapping[str, Timing], rivals: Sequence[str]) -> dict[str, float]:
    """How many times as fast as each rival, by wall (`x_dense`) and by processor time (`x_dense_cpu`)."""
    ups = {}
    for rival in rivals:
        if rival in times:
            ups[f"x_{rival}"] = times[rival].median / timing.median
            ups[f"x_{rival}_cpu"] = times[rival].cpu_median / timing.cpu_median
    return ups


def pair(row: Mapping[str, Any], name: str) -> str:
    """A figure by wall, and in brackets by processor time; a dash where there is none."""
    return "-" if row.get(name) is None else f"{row[name]:.2f} ({row[f'{name}_cpu']:.2f})"


def show_sets(result: Mapping[str, Any]) -> None:
    """Say how many inputs took turns, where it was more than one."""
    if result["input_sets"] > 1:
        print(f"{result['input_sets']} input sets in turn", flush=True)


def finish(found: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Write and name what the figures depend on."""
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print({key: value for key, value in found["environment"].items() if value is not None}, found["commit"])
    return found
