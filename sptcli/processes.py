"""Commands that several processes share: starting them, or taking one's own place among them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sptcli.session import Session
from sptcore.errors import EnvironmentFault

if TYPE_CHECKING:
    import torch

    from sptcore.training.distributed import Group
    from sptcore.training.launch import Place


@dataclass(frozen=True)
class Spread:
    """How a command is spread: on `device`, `devices` processes of each of `nodes` machines, which meet at `rdzv`."""

    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    gpus: Sequence[int] | None = None
    rdzv: str | None = None

    def place(self) -> Place | None:
        """This process's own, None when there are no others (yet)."""
        from sptcore.training.launch import find_place

        return find_place(self.devices * self.nodes, nodes=self.nodes)


def launched(session: Session, spread: Spread) -> int | None:
    """The exit code of the processes started for this command; None in a process that does the work itself.

    Raises EnvironmentFault for GPUs that are not there, UsageError when srun started another number of processes.
    """
    import torch

    from sptcore.runs.device import pick_device
    from sptcore.training.launch import check_gpus, launch

    waits = spread.place() is None and spread.devices * spread.nodes > 1
    on_cuda = pick_device(spread.device).type == "cuda"
    if spread.gpus is not None and not on_cuda:
        named = ",".join(map(str, spread.gpus))
        hint = f"--devices {spread.devices} starts as many processes on the CPU; spt doctor tells of GPUs"
        raise EnvironmentFault(f"GPUs {named} are named, but this runs on the CPU", hint=hint)
    if spread.gpus is not None or (on_cuda and waits):
        check_gpus(spread.devices, spread.gpus, count=torch.cuda.device_count())
    if not waits:
        return None
    session.opened = False  # the processes say everything
    arguments = ["-m", "sptcli", *session.arguments]
    return launch(arguments, spread.devices, nodes=spread.nodes, rdzv=spread.rdzv, tell=session.warn)


@contextmanager
def joined_here(spread: Spread) -> Iterator[tuple[Group, torch.device]]:
    """This process's group and its device."""
    from sptcore.runs.device import pick_device
    from sptcore.training.distributed import joined

    place = spread.place()
    if place is not None:
        # srun's processes too: the first of them speaks
        os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.world)}
    with joined(pick_device(spread.device), place, gpus=spread.gpus) as (group, device):
        yield group, device
