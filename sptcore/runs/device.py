"""Where a job runs."""

from __future__ import annotations

import torch

from sptcore.errors import EnvironmentFault, UsageError


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one. Raises EnvironmentFault for one that is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device '{name}'", hint="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault(f"device {name} is not available", hint="--device cpu, or see: spt doctor")
    return device
