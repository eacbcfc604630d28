"""The one place that chooses between the plain torch form of an operation and its Triton kernel."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

IMPLS = ("auto", "reference", "kernel")


def choose_impl(
    operation: str, impl: str, device: torch.device, *, limit: str | None = None
) -> Literal["reference", "kernel"]:
    """Which form of `operation` runs on tensors of `device`.

    `auto` takes the kernel on a CUDA device that can run it, else the reference. `kernel` is obeyed or refused, never
    replaced; on a CPU it needs Triton's interpreter. `limit` says in words what of these tensors the kernel cannot
    take, or is None. Raises ValueError for another word and for a kernel that cannot run, with the reason.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if impl == "reference" or (impl == "auto" and device.type != "cuda"):
        return "reference"
    obstacle = limit or kernel_obstacle(device.type, device.index)
    if obstacle is None:
        return "kernel"
    if impl == "kernel":
        raise ValueError(f"the kernel of {operation} cannot run: {obstacle}; use impl='auto' or impl='reference'")
    return "reference"


def is_traced() -> bool:
    """Whether the operations are being recorded for torch.compile, torch.export or a TorchScript trace."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


@torch.compiler.assume_constant_result
def kernel_obstacle(device_type: str, index: int | None = None) -> str | None:
    """Why no Triton kernel can run on this device, in words, or None."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if device_type == "cuda":
        return _cuda_obstacle(index)
    if device_type == "cpu":
        return None if os.environ.get("TRITON_INTERPRET") == "1" else "it runs on a CPU only under TRITON_INTERPRET=1"
    return f"it runs on CUDA devices, not on {device_type}"


@cache
def _cuda_obstacle(index: int | None) -> str | None:
    major, minor = torch.cuda.get_device_capability(index)
    return None if major >= 8 else f"it needs compute capability 8.0, this device has {major}.{minor}"
