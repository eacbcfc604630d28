"""`--compile`: the feed-forward networks of the backbone fused by torch.compile, with any number of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sptcore.errors import EnvironmentFault
from sptcore.models.layers import Mlp

BACKEND = "inductor"


def compile_dense_parts(model: nn.Module, device: torch.device) -> int:
    """Compile every feed-forward network of `model` in place, its parameters' names unchanged; returns how many.

    They are what all tokens or all selected ones go through alike; packing, whose shapes follow from the data, stays as
    it is. Raises EnvironmentFault on a machine without a working compiler.
    """
    _check_compiler(device)
    parts = [module for module in model.modules() if isinstance(module, Mlp)]
    for part in parts:
        part.compile(dynamic=True, backend=BACKEND)
    return len(parts)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Evaluate as if nothing had been compiled: the figures are those of `spt evaluate`."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _check_compiler(device: torch.device) -> None:
    """Compile and run a line, past all caches."""
    if BACKEND != "inductor":
        return
    import torch._inductor.config as settings

    try:
        with settings.patch(force_disable_caches=True):
            torch.compile(_line, dynamic=True)(torch.ones(3, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hint = "install a C++ compiler (and Python's headers; on CUDA Triton), or leave --compile out"
        raise EnvironmentFault(f"--compile: torch.compile does not work here: {reason}", hint=hint) from error


def _line(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
