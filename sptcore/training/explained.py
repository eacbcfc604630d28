"""What ends a run from outside, in the words of the run: memory that is used up, a disk that is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sptcore.errors import EnvironmentFault, ResourceError
from sptcore.runs import Run
from sptcore.training.config import TrainConfig
from sptcore.training.resuming import resume_command

_NO_MEMORY = "DefaultCPUAllocator"  # torch's words on a CPU, in a plain RuntimeError


@contextmanager
def explained(config: TrainConfig, run: Run) -> Iterator[None]:
    """Raise ResourceError where memory runs out while inside, and EnvironmentFault with the command that goes on."""
    try:
        yield
    except EnvironmentFault as error:
        raise EnvironmentFault(error.message, where=error.where, hint=_go_on(run)) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise EnvironmentFault(os.strerror(errno.ENOSPC), where=str(run.home), hint=_go_on(run)) from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and _NO_MEMORY not in str(error):
            raise
        where = f"batch {config.batch} at {config.res[0]}x{config.res[1]}"
        hint = "use a smaller --batch (with --accum to keep the images a step) or a smaller --res"
        raise ResourceError(f"the device has too little memory for {where}", hint=hint) from error


def _go_on(run: Run) -> str:
    return f"the last checkpoint is whole; mend that, then: {resume_command(run)}"
