"""Several processes training one model: the few collective operations the loop needs, trivial for one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


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
        return (
            torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
        )


ALONE = Group()
