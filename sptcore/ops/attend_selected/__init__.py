"""What an SPA block does with its selected tokens, in an operator whose shapes hide how many they are; inference only.

The ordinary road asks how many tokens were selected and then works on exactly these. A CUDA graph forbids the question:
on a GPU buffers have room for every token, and the kernels read on the device how much of them is in use. A compiled
graph forbids shapes that follow data: on a CPU the operator asks inside, where the compiler does not look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from sptcore.ops.attend_selected.branch import Branch, FeedForward, Projections
from sptcore.ops.attend_selected.operator import attend_whole
from sptcore.ops.attend_selected.plan import PackingRule, plan_on_device
from sptcore.ops.backend import choose_impl
from sptcore.ops.packed_attention import check_request, kernel_limit
from sptcore.ops.selection import Selection

__all__ = [
    "Branch",
    "FeedForward",
    "PackingRule",
    "Projections",
    "attend_selected",
    "impl_in_use",
    "must_not_wait",
    "plan_on_device",
    "without_waiting",
]

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


def impl_in_use() -> str:
    """The form a block asks for on this road: where a graph is compiled whatever suits the device, else the kernels."""
    return "auto" if torch.compiler.is_compiling() else "kernel"


def attend_selected(
    x: Tensor,
    selection: Selection,
    branch: Branch,
    rule: PackingRule,
    stats: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """x + what `branch` makes of the tokens x (B, H, W, C), attention among the selected ones; the same shape.

    `stats` (2, B, H, W) fp32: mean and 1 / deviation of every token where they are known (`gate_stats`). Raises
    ValueError for an unknown scope, a bias that does not fit, a feed-forward network beside `passes`, a kernel that
    cannot run, and any call that would need a gradient.
    """
    check_request(branch.bias, rule.scope, rule.container_len)
    if torch.is_grad_enabled():
        raise ValueError("attend_selected has no gradient, call it under torch.no_grad()")
    if branch.passes and branch.feed_forward is not None:
        raise ValueError("tokens that skip the block whole cannot take its projection")
    projections, second, bias = branch.projections, branch.feed_forward, branch.bias
    limit = kernel_limit(x.flatten(0, 2).unflatten(-1, (projections.num_heads, -1)))
    chosen = choose_impl("attend_selected", impl, x.device, limit=limit)
    return attend_whole(
        x,
        selection.scale,
        selection.mask,
        stats,
        [branch.norm.weight, branch.norm.bias],
        _products(x, projections.qkv_weight, projections.qkv_bias, projections.proj_weight, projections.proj_bias),
        [] if second is None else [second.norm.weight, second.norm.bias],
        [] if second is None else _products(x, second.fc1_weight, second.fc1_bias, second.fc2_weight, second.fc2_bias),
        None if bias is None else bias.table.detach(),
        branch.norm.eps,
        0.0 if second is None else second.norm.eps,
        projections.num_heads,
        rule.window_size,
        rule.shift_size,
        rule.mode,
        rule.container_len,
        rule.scope,
        1 if bias is None else bias.window_size,
        bias is not None and bias.by == "slot",
        branch.passes,
        chosen == "kernel",
    )


def _products(x: Tensor, *weights: Tensor) -> list[Tensor]:
    """Weights in the dtype that the products are computed in: autocast's, or that of the tokens."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return [weight.detach().to(dtype) for weight in weights]
