"""Runs in forked processes, killed at random moments: forking spares each of them the seconds of importing torch."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch

from sptcore.runs import Run, new_run
from sptcore.training.distributed import joined
from sptcore.training.launch import Place
from sptcore.training.loop import make_trainer
from tests.support.training import difference, final_state, tiny_config

CPU = torch.device("cpu")
PATIENCE = 120.0

# The first backward pass of a process sets autograd up. After a fake tensor (torch.export, torch.compile) it starts
# threads, and then no forked process can train; this module is imported before the first test runs.
torch.ones(1, requires_grad=True).sum().backward()


def _train(folder: Path, data: Path, settings: Mapping[str, Any], place: Place) -> None:
    """One process of a run, which goes on where it had begun."""
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # what a process says of its dead partner
    resume = (folder / "config.toml").exists()
    config = tiny_config(data, devices=place.world, **settings)
    with joined(CPU, place if place.world > 1 else None) as (group, device):
        trainer = make_trainer(config, group=group, device=device)
        if not resume and group.is_leader:
            shutil.rmtree(folder, ignore_errors=True)
            new_run("train", "tiny", folder=folder)
        trainer.fit(Run(folder), resume=resume)


def start(folder: Path, data: Path, settings: Mapping[str, Any], world: int) -> list[ForkProcess]:
    """The processes of a run in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = [Place(rank, world, rank, "127.0.0.1", port) for rank in range(world)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_train, args=(folder, data, settings, place)) for place in places]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[ForkProcess]) -> list[int | None]:
    """Wait for them, not for ever: one that waits for another would hold the tests up; their exit codes."""
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


@dataclass
class Torture:
    """A run is started again and again and killed after a random time, the same for a seed; `moments`: steps done."""

    folder: Path
    data: Path
    settings: Mapping[str, Any]
    world: int
    seed: int
    moments: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def run(self, kills: int) -> None:
        """Kill `kills` times; each run that is complete is compared with one that nobody disturbed."""
        generator = random.Random(self.seed)
        began = time.monotonic()
        assert finish(start(self.folder / "whole", self.data, self.settings, self.world)) == [0] * self.world
        length = time.monotonic() - began
        number = 0
        while len(self.moments) < kills:
            number += self._attempt(self.folder / f"run-{number}", length * generator.uniform(0.1, 0.9), generator)
        home = self.folder / f"run-{number}"
        assert finish(start(home, self.data, self.settings, self.world)) == [0] * self.world
        self._compare(home)

    def _attempt(self, home: Path, seconds: float, generator: random.Random) -> bool:
        """One life of the run; whether it came to its end."""
        processes = start(home, self.data, self.settings, self.world)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(process.is_alive() for process in processes):
            time.sleep(0.002)
        if not any(process.is_alive() for process in processes):
            assert finish(processes) == [0] * self.world
            self._compare(home)
            return True
        self.moments.append(len(Run(home).metrics()) if (home / "metrics.jsonl").exists() else 0)
        first = generator.randrange(self.world)
        processes[first].kill()
        processes[first].join()
        for process in processes:
            process.kill()
        finish(processes)
        return False

    def _compare(self, home: Path) -> None:
        found = difference(final_state(Run(self.folder / "whole")), final_state(Run(home)))
        self.differences += [] if found is None else [found]
