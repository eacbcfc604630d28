"""Several processes training one model: the few collective operations the loop needs, trivial for one process.

Each process is one rank of torch.distributed, started by torch's elastic launcher (`launch`) or by torchrun; it takes
its own share of every step's images, and gradients are averaged over all of them.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(hours=24)  # a validation may keep the others waiting; a dead process is seen by the launcher


@dataclass(frozen=True)
class Group:
    """This process's place among `world` processes; with one, every operation returns what it was given."""

    rank: int = 0
    world: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process evaluates, writes and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model whose gradients are averaged over the processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    def apart(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """While inside, gradients of the wrapped model stay with this process, to be averaged by a later pass."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def sums(self, values: Sequence[float]) -> list[float]:
        """Element by element, the sum over all processes; the same on each."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self._device())
        dist.all_reduce(total)
        return total.tolist()

    def first(self, text: str | None) -> str | None:
        """The leader's `text` on every process."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0, device=self._device())
        return box[0]

    @staticmethod
    def _device() -> torch.device:
        """Where collectives work: the current CUDA device under NCCL, else the CPU."""
        return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


ALONE = Group()


def started_by_launcher() -> bool:
    """Whether this process is one rank of several (torchrun's variables)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Group, torch.device]]:
    """This process's group, by torchrun's variables, and its own device; alone, `device` as it is."""
    if not started_by_launcher():
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `python ARGUMENTS` in `processes` processes of one group; returns the exit code of the first to fail, or 0.

    SIGTERM and Ctrl-C are passed on to them, with 30 seconds to save their state.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(settings, sys.executable)(*arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return 128 - code if code < 0 else code
    except SignalException as stop:
        return 130 if stop.sigval == signal.SIGINT else 128 + int(stop.sigval)
    return 0
