"""Several processes training one model: the few collective operations the loop needs, trivial for one process.

Each process is one rank of torch.distributed, started by ourselves (`launch`), torchrun or srun; it takes its own share
of every step's images, and gradients are averaged over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from sptcore.errors import EnvironmentFault, ResourceError, UsageError
from sptcore.training.launch import Place

T = TypeVar("T")
_PATIENCE = timedelta(hours=24)  # one process may keep the others waiting; a dead one is seen by the launcher
_MEETING = timedelta(minutes=10)
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


@dataclass(frozen=True)
class Group:
    """This process's place among `world` processes; with one, every operation returns what it was given."""

    rank: int = 0
    world: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process scores, writes and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model whose gradients are averaged over the processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    def apart(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """While inside, gradients of the wrapped model stay with this process, to be averaged by a later pass."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def summed(self, values: Tensor) -> Tensor:
        """Element by element, the sum over all processes, still on the device of `values`; the same on each."""
        if self.world == 1:
            return values
        total = values.to(self._device(), copy=True)
        dist.all_reduce(total)
        return total

    def told(self, value: T | None) -> T | None:
        """The first `value` that is not None, by rank; the same on each process."""
        if self.world == 1:
            return value
        if not self.summed(torch.tensor([float(value is not None)])).item():  # cheap, as it is asked before every step
            return None
        return next(one for one in self.gathered(value) if one is not None)

    def first(self, value: T) -> T:
        """The leader's `value` on every process."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self._device())
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """The `value` of every process, in order of rank, on each of them."""
        box = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(box, value)
        return box

    def collected(self, value: T) -> list[T]:
        """The `value` of every process, in order of rank, on the leader; nothing on the others."""
        if self.world == 1:
            return [value]
        box = [value] * self.world if self.is_leader else None
        dist.gather_object(value, box, dst=0)
        return box or []

    @staticmethod
    def _device() -> torch.device:
        """Where collectives work: the current CUDA device under NCCL, else the CPU."""
        return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


ALONE = Group()


@contextmanager
def joined(
    device: torch.device, place: Place | None = None, *, gpus: Sequence[int] | None = None
) -> Iterator[tuple[Group, torch.device]]:
    """This process's group, by its `place`, and its own device (of `gpus`, in order); without one, `device` as it is.

    Raises EnvironmentFault when the others are not reached, ResourceError when one of them dies.
    """
    device = _own_device(device, 0 if place is None else place.local_rank, gpus, several=place is not None)
    if place is None:
        yield ALONE, device
        return
    _meet(place, "nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(place.rank, place.world), device
    except RuntimeError as error:
        if not any(text in str(error) for text in _LOST):
            raise
        hint = "what it said last tells why; go on with the run: --resume"
        raise ResourceError(f"another process of the run is gone, as rank {place.rank} notices", hint=hint) from error
    finally:
        dist.destroy_process_group()


def _own_device(device: torch.device, local_rank: int, gpus: Sequence[int] | None, *, several: bool) -> torch.device:
    if device.type != "cuda":
        return device
    if gpus is not None:
        if local_rank >= len(gpus):
            message = f"gpus names {len(gpus)} GPUs, process {local_rank} of this machine has none"
            raise UsageError(message, hint="--devices N gives each of N processes its own")
        device = torch.device("cuda", gpus[local_rank])
    elif several:  # a process that SLURM shows one GPU only finds it at 0
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def _meet(place: Place, backend: str) -> None:
    """Join the group. Raises EnvironmentFault when the others do not come within ten minutes."""
    try:
        if place.hosted:
            dist.init_process_group(backend, timeout=_PATIENCE)
            return
        leads = place.rank == 0
        store = TCPStore(place.host, place.port, place.world, is_master=leads, timeout=_MEETING)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=_PATIENCE)
    except RuntimeError as error:
        where = f"{place.host}:{place.port}"
        message = f"rank {place.rank} of {place.world} did not meet the others: {str(error).splitlines()[0]}"
        hint = "start all of them, with the same MASTER_ADDR and a free MASTER_PORT"
        raise EnvironmentFault(message, where=where, hint=hint) from error
