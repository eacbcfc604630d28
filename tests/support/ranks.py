"""Processes of one group on this machine, started as torchrun or SLURM start them, and what they do in tests."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from sptcore.data.locate import open_index
from sptcore.errors import ResourceError
from sptcore.profiling.forced import randomise_biases
from sptcore.tasks import TASKS
from sptcore.training.datasets import ImageDataset, WholeImage
from sptcore.training.distributed import Group, joined
from sptcore.training.evaluate import Evaluation, Running, evaluate_model
from sptcore.training.launch import find_place
from sptcore.training.loading import BatchLoader
from sptcore.training.prepare import describe, prepare
from sptcore.training.sampler import Draw
from tests.support.training import tiny_config

ROOT = Path(__file__).resolve().parents[2]
RES = "96x96"


def variables(style: str, rank: int, world: int, port: int) -> dict[str, str]:
    """The environment of one rank, of which nothing else reminds of a launcher."""
    known = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE",
             "TORCHELASTIC_RUN_ID")  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in known and not name.startswith("SLURM_")}
    if style == "torchrun":
        own = {
            "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_RUN_ID": "none",
        }  # fmt: skip
    else:
        own = {
            "SLURM_JOB_ID": 77, "SLURM_STEP_ID": 0, "SLURM_PROCID": rank, "SLURM_NTASKS": world,
            "SLURM_LOCALID": rank, "SLURM_NODELIST": "localhost",
        }  # fmt: skip
    return kept | {name: str(value) for name, value in own.items()} | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}


def start_ranks(style: str, arguments: list[str], world: int = 2) -> list[subprocess.Popen[str]]:
    """`python ARGUMENTS` once for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=variables(style, rank, world, port),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]


def evaluation(group: Group, data: str, batch: int = 2) -> Evaluation:
    """A model with random weights on the validation images of `data`."""
    config = tiny_config(Path(data), res=RES)
    index = open_index(data, "val")
    spec = describe(config, index)
    torch.manual_seed(0)
    model = TASKS[spec.task].build_model(spec)
    randomise_biases(model, torch.Generator().manual_seed(0), 0.1)
    running = Running(torch.device("cpu"), batch, group=group)
    dataset = ImageDataset(index, WholeImage(spec.resolution))
    return evaluate_model(TASKS[spec.task], model, spec, dataset, index, running=running)


def step_with_nothing_selected(group: Group, data: str) -> dict[str, Any]:
    """Two forward and backward passes in which the second rank selects no token at all: its ratios and gradients."""
    config = tiny_config(Path(data), res=RES, devices=2)
    prepared = prepare(config)
    torch.manual_seed(0)
    model = prepared.task.build_model(prepared.spec)
    wrapped = group.wrap(model, torch.device("cpu"))
    if group.rank == 1:
        for name, parameter in model.named_parameters():
            if name.endswith("gate.bias"):
                parameter.data.fill_(-1e4)
    batch = next(BatchLoader(prepared.train).batches([[Draw(0, group.rank)]]))
    for _ in range(2):
        model.zero_grad()
        outcome = prepared.task.outcome(wrapped, batch, select_loss_weight=0.1)
        outcome.total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    ratios = [float(one.selection.ratio) for one in outcome.features.selections]
    return {"ratios": ratios, "gradients": gradients, "loss": float(outcome.total)}


def main() -> None:
    """A rank: OUT DATA. Evaluates, steps, and sees the second rank die."""
    out, data = Path(sys.argv[1]), sys.argv[2]
    place = find_place(2)
    assert place is not None
    found: dict[str, Any] = {"place": place}
    try:
        with joined(torch.device("cpu"), place) as (group, _):
            found["evaluation"] = evaluation(group, data)
            found["step"] = step_with_nothing_selected(group, data)
            found["gathered"] = group.gathered(group.rank)
            if group.rank == 1:
                (out / "1.pickle").write_bytes(pickle.dumps(found))
                os._exit(9)
            group.summed(torch.ones(1))
    except ResourceError as error:
        found["lost"] = str(error)
    (out / f"{place.rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
