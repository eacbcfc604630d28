"""ONNX operators as Python functions, and constants among their arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnxscript import ir, opset18

op: Any = opset18
"""Every operator of ONNX's opset 18; its stubs know fewer types than its operators take."""


def ints(*values: int) -> Any:
    """(n,) int64: axes, sizes, factors."""
    return op.Constant(value_ints=list(values))


def one_int(value: int) -> Any:
    """An int64 without axes."""
    return op.Constant(value_int=value)


def one_float(value: float) -> Any:
    """A float32 without axes."""
    return op.Constant(value_float=value)


def floats(*values: float) -> Any:
    """(n,) float32."""
    return op.Constant(value_floats=list(values))


def integers(values: np.ndarray) -> Any:
    """An int64 table of any shape."""
    return op.Constant(value=ir.tensor(np.ascontiguousarray(values, dtype=np.int64)))
