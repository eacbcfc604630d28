"""Memory that is used up and a full disk are told in the words of the run; anything else goes through (50, 58, 70)."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from sptcore.errors import EnvironmentFault, ResourceError
from sptcore.runs import Run, checkpoints, latest_checkpoint, new_run
from sptcore.training.explained import explained
from sptcore.training.loop import fit
from tests.support.training import STEPS, difference, final_state, mini_data, tiny_config, tiny_run

CPU_SAYS = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError(CPU_SAYS)])
def test_memory_that_runs_out_names_batch_and_resolution(error: Exception) -> None:
    config = tiny_config(Path("nowhere"))
    with pytest.raises(ResourceError, match="batch 2 at 64x64"), explained(config, Run(Path("r"))):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes"), OSError(errno.EIO, "I/O error"), ValueError("x")])
def test_other_errors_go_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained(tiny_config(Path("nowhere")), Run(Path("r"))):
        raise error
    assert caught.value is error


def test_a_disk_that_is_full_where_rows_are_added_says_how_to_go_on(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    run = Run(tmp_path / "a run")
    with pytest.raises(EnvironmentFault, match="No space") as caught, explained(tiny_config(Path("nowhere")), run):
        raise full
    assert f"spt train --resume '{tmp_path / 'a run'}'" in str(caught.value.hint)


def test_a_disk_that_fills_up_in_mid_checkpoint_leaves_the_last_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mini_data(tmp_path / "data")
    whole = tiny_run(tmp_path / "whole", data).run
    run, left = new_run("train", "tiny", folder=tmp_path / "run"), [STEPS // 2]
    write = checkpoints._HashingStream.write

    def fill(self: checkpoints._HashingStream, content: bytes) -> int:
        written = write(self, content)
        if len(content) > 1000 and not left[0]:
            self.error = OSError(errno.ENOSPC, "No space left on device")
            raise self.error
        return written

    save = checkpoints._write

    def count(path: Path, state: dict[str, object]) -> str:
        digest = save(path, state)
        left[0] -= 1
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write", count)
        patch.setattr(checkpoints._HashingStream, "write", fill)
        with pytest.raises(EnvironmentFault, match="No space") as caught:
            fit(tiny_config(data), run)
    assert f"--resume {run.home}" in str(caught.value.hint)
    found = latest_checkpoint(run.checkpoints, pytest.fail)
    assert found is not None
    assert found[1]["step"] == STEPS // 2
    assert not [*run.checkpoints.glob(".spt-tmp-*")]
    fit(tiny_config(data), run, resume=True)
    assert difference(final_state(whole), final_state(run)) is None
