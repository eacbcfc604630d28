"""The one place that chooses between the plain torch form of an operation and its kernel."""

from __future__ import annotations

from typing import Literal

from sptcore.errors import EnvironmentFault

IMPLS = ("auto", "reference", "kernel")


def choose_impl(operation: str, impl: str, obstacle: str | None) -> Literal["reference", "kernel"]:
    """Which form of `operation` runs: `auto` takes the kernel wherever nothing stands against it.

    `obstacle` says in words why the kernel cannot run on these tensors, or is None. An explicit request is obeyed or
    refused, never replaced. Raises EnvironmentFault when `impl="kernel"` meets an obstacle, ValueError for other words.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if impl == "kernel" and obstacle is not None:
        raise EnvironmentFault(
            f"the kernel of {operation} cannot run: {obstacle}", hint="use impl='auto' or impl='reference'"
        )
    return "reference" if impl == "reference" or obstacle is not None else "kernel"
