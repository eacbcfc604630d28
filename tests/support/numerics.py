"""How near two results must be: measured by the reference's own rounding error, not by a number somebody liked."""

from __future__ import annotations

import torch
from torch import Tensor


def error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected magnitude where that exceeds 1; inf for any NaN."""
    assert actual.shape == expected.shape, f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}"
    if actual.numel() == 0:
        return 0.0
    scale = max(1.0, expected.double().abs().max().item())
    difference = (actual.double() - expected.double()).abs().max().item() / scale
    return difference if difference == difference else float("inf")


def assert_rounds_like(actual: Tensor, reference: Tensor, exact: Tensor, *, factor: float = 2.0) -> None:
    """`actual` is at most `factor` times as far from `exact` (fp64) as `reference`, in the same dtype, is itself.

    One unit of rounding of the dtype is granted on top, for a reference that happens to be exact.
    """
    allowed = factor * error(reference, exact) + torch.finfo(reference.dtype).eps
    found = error(actual, exact)
    assert found <= allowed, (
        f"error {found:.3g} against {allowed:.3g} allowed (the reference has {allowed / factor:.3g})"
    )


def assert_rounds_like_on_average(actual: Tensor, reference: Tensor, exact: Tensor, *, factor: float = 2.0) -> None:
    """As `assert_rounds_like`, by the root mean square of the errors instead of the largest.

    For sums of many terms, where the largest error follows the order of summation; one wrong element still shows. A
    unit of rounding is granted where the reference happens to be exact.
    """
    assert actual.shape == exact.shape, f"shapes differ: {tuple(actual.shape)} and {tuple(exact.shape)}"
    if actual.numel() == 0:
        return
    found, own = ((value.double() - exact.double()).square().mean().sqrt().item() for value in (actual, reference))
    allowed = factor * own or torch.finfo(reference.dtype).eps * exact.double().square().mean().sqrt().item()
    assert found <= allowed, (
        f"error {found:.3g} (root mean square) against {allowed:.3g} allowed ({own:.3g} x {factor})"
    )


def assert_same(actual: Tensor, expected: Tensor, *, tolerance: float) -> None:
    """Equal within `tolerance`, relative to the largest expected magnitude."""
    found = error(actual, expected)
    assert found <= tolerance, f"error {found:.3g}, allowed {tolerance:.3g}"


def assert_differs(actual: Tensor, other: Tensor, *, by: float = 1e-3) -> None:
    """A negative control: the two must not be near."""
    found = error(actual, other)
    assert found > by, f"these should differ by more than {by:.3g}, and do by {found:.3g}"
