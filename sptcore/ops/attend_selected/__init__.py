"""The whole attention branch of an SPA block for inference, in an operator whose shapes hide how much was selected.

The ordinary road asks how many tokens were selected and then works on exactly these. A CUDA graph forbids the question:
on a GPU buffers have room for every token, and the kernels read on the device how much of them is in use. A compiled
graph forbids shapes that follow data: on a CPU the operator asks inside, where the compiler does not look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from sptcore.ops.attend_selected.operator import attend_whole
from sptcore.ops.attend_selected.plan import PackingRule, plan_on_device
from sptcore.ops.backend import choose_impl
from sptcore.ops.packed_attention import PositionBias, check_request, kernel_limit
from sptcore.ops.selection import Selection

__all__ = ["PackingRule", "Projections", "attend_selected", "must_not_wait", "plan_on_device", "without_waiting"]


@dataclass(frozen=True, eq=False)
class Projections:
    """The weights of an attention: qkv (3C, C) and (3C,), proj (C, C) and (C,), and the heads that C is cut into."""

    qkv_weight: Tensor
    qkv_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    num_heads: int


_asked: ContextVar[bool] = ContextVar("sptcore.ops.attend_selected.without_waiting", default=False)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Inside, SPA blocks in evaluation take this road; while a CUDA graph is captured they take it anyway.

    Run a model so once before capturing it: that compiles the kernels.
    """
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def must_not_wait(x: Tensor) -> bool:
    """Whether nothing may ask the device for the number of tokens: `without_waiting`, or a graph is being captured."""
    return _asked.get() or (x.is_cuda and torch.cuda.is_current_stream_capturing())


def attend_selected(
    x: Tensor,
    normed: Tensor,
    selection: Selection,
    projections: Projections,
    rule: PackingRule,
    bias: PositionBias | None = None,
    impl: str = "auto",
) -> Tensor:
    """x + W_o attention(gain x normed) at the selected tokens, x elsewhere; all (B, H, W, C), no gradient.

    Raises ValueError for an unknown scope, a bias that does not fit, a kernel that cannot run, and any call that would
    need a gradient.
    """
    check_request(bias, rule.scope, rule.container_len)
    if torch.is_grad_enabled():
        raise ValueError("attend_selected has no gradient, call it under torch.no_grad()")
    limit = kernel_limit(normed.flatten(0, 2).unflatten(-1, (projections.num_heads, -1)))
    chosen = choose_impl("attend_selected", impl, x.device, limit=limit)
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else normed.dtype
    weights = (projections.qkv_weight, projections.qkv_bias, projections.proj_weight, projections.proj_bias)
    return attend_whole(
        x,
        normed,
        selection.gain,
        selection.mask,
        *(weight.detach().to(dtype) for weight in weights),
        None if bias is None else bias.table.detach(),
        projections.num_heads,
        rule.window_size,
        rule.shift_size,
        rule.mode,
        rule.container_len,
        rule.scope,
        1 if bias is None else bias.window_size,
        bias is not None and bias.by == "slot",
        chosen == "kernel",
    )
