"""Two processes on the CPU: the launcher, its exit codes, and a run that goes on bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from sptcore.runs import Run, load_checkpoint
from sptcore.training.distributed import ALONE, joined
from sptcore.training.launch import launch
from tests.support.cli import spt_process
from tests.support.training import difference, mini_data

QUICK = (
    "--preset", "sample", "--res", "64x64", "--batch", "1", "--epochs", "2", "--device", "cpu", "--set", "log_every=1",
)  # fmt: skip


def test_alone_nothing_is_shared() -> None:
    values = torch.tensor([1.0, 2.5])
    assert ALONE.summed(values) is values
    assert ALONE.first("x") == "x"
    assert ALONE.is_leader
    model, cpu = torch.nn.Linear(1, 1), torch.device("cpu")
    assert ALONE.wrap(model, cpu) is model
    with joined(cpu) as (group, device):
        assert (group, device) == (ALONE, cpu)


@pytest.mark.parametrize("code", [0, 3])
def test_the_launcher_returns_the_code_of_the_first_to_fail(code: int) -> None:
    program = (
        f"import os, sys; sys.exit({code} if os.environ['RANK'] == '1' and os.environ['WORLD_SIZE'] == '2' else 0)"
    )
    assert launch(["-c", program], 2) == code


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit_and_do_what_one_does(tmp_path: Path) -> None:
    """A run of four steps, a copy of it that has lost everything after its first, and one process that accumulates."""
    data = mini_data(tmp_path / "data")

    def train(*arguments: object) -> None:
        ran = spt_process("train", *arguments, "--json", env={"OMP_NUM_THREADS": "1"})
        assert ran.code == 0, ran.err
        assert ran.document["ok"] is True

    whole, parts, alone = tmp_path / "whole", tmp_path / "parts", tmp_path / "alone"
    train("--data", data, *QUICK, "--devices", 2, "--run-dir", whole, "--save-every", "1it", "--keep", 9)
    shutil.copytree(whole, parts)
    for path in (parts / "checkpoints").iterdir():
        if not path.name.startswith("step-00000001"):
            path.unlink()
    train("--resume", parts)
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, parts))
    assert one["step"] == other["step"] == 4
    assert difference({**one, "config": ""}, {**other, "config": ""}) is None
    rows = [[row for row in Run(folder).metrics() if "loss" in row] for folder in (whole, parts)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert len(rows[0]) == 4
    train("--data", data, *QUICK, "--accum", 2, "--run-dir", alone)
    single = load_checkpoint(alone / "checkpoints" / "last.pt")
    for name, tensor in one["model"].items():  # with gate noise, augmentation and drop path: only sums differ in order
        torch.testing.assert_close(single["model"][name], tensor, msg=lambda text, name=name: f"{name}: {text}")
    rows.append([row for row in Run(alone).metrics() if "loss" in row])
    assert [row["loss"] for row in rows[2]] == pytest.approx([row["loss"] for row in rows[0]], rel=1e-6)
    assert [row["select_ratio.stage3"] for row in rows[2]] == [row["select_ratio.stage3"] for row in rows[0]]
