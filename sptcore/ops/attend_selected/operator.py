"""`sptcore::attend_selected`: the whole branch as one PyTorch operator, whose result has the shape of its input.

How many tokens were selected shows in no shape, so torch.compile neither breaks its graph here nor compiles anew for
another selection. There is no gradient: training knows its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from sptcore.ops.attend_selected.branch import Branch, FeedForward, Projections
from sptcore.ops.attend_selected.on_device import run_on_device
from sptcore.ops.attend_selected.plan import PackingRule
from sptcore.ops.attend_selected.reference import run_exactly
from sptcore.ops.layer_norm import Norm
from sptcore.ops.packed_attention import PositionBias
from sptcore.ops.packing import plan_packing


def attend_branch(
    x: Tensor,
    scale: Tensor,
    mask: Tensor,
    stats: Tensor | None,
    norm: Sequence[Tensor],
    projections: Sequence[Tensor],
    second_norm: Sequence[Tensor],
    feed_forward: Sequence[Tensor],
    table: Tensor | None,
    norm_eps: float,
    second_eps: float,
    num_heads: int,
    window_size: int,
    shift_size: int,
    mode: str,
    container_len: int,
    scope: str,
    table_window: int,
    by_slot: bool,
    passes: bool,
    by_kernel: bool,
) -> Tensor:
    """x + what the branch makes of the tokens x (B, H, W, C), attention among those of `mask` (B, H, W).

    `scale` (B, H, W): the factor of each normed token. `stats`: see `attend_selected`. Weights and biases of the norm,
    of qkv and proj, of the second norm, of fc1 and fc2 follow (`Branch`), the last two without entries where only the
    attention is wanted; those of products in the products' dtype. `table` ((2 M - 1)^2, h) of the window M =
    `table_window`. `mode`, `scope`: see `PackingRule`. `by_kernel`: buffers for every token and Triton kernels that
    never wait for the device; otherwise an exact packing in plain torch.
    """
    if x.numel() == 0:
        return x.clone(memory_format=torch.contiguous_format)
    rule = PackingRule(window_size, shift_size, mode, container_len, scope)
    branch = Branch(
        Norm(norm[0], norm[1], norm_eps),
        Projections(projections[0], projections[1], projections[2], projections[3], num_heads),
        None if table is None else PositionBias(table, table_window, "slot" if by_slot else "spatial"),
        FeedForward(Norm(second_norm[0], second_norm[1], second_eps), *feed_forward) if feed_forward else None,
        passes,
    )
    if by_kernel:
        return run_on_device(x, scale, mask, stats, branch, rule)
    packing = plan_packing(mask, window_size, shift_size, mode, container_len, impl="reference")
    return run_exactly(x, scale, packing, branch, scope)


attend_whole = torch.library.custom_op("sptcore::attend_selected", attend_branch, mutates_args=())


@attend_whole.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@register_flop_formula(torch.ops.sptcore.attend_selected, get_raw=True)
def _flops(x: Tensor, scale: Tensor, mask: Tensor, *args: Any, **_: Any) -> int:
    """The products over the selected tokens and whole containers: what the ordinary road is counted for.

    Reads how many tokens were selected, and so waits for the device, as nothing but a counter does. A mask without data
    (fake or on the meta device) counts as full, the most there can be.
    """
    feed_forward, mode, container_len, passes = args[4], args[11], args[12], args[16]
    if mask.is_meta or isinstance(mask, FakeTensor):
        counts = [mask[0].numel()] * mask.shape[0]
    else:
        counts = mask.flatten(1).sum(1).tolist()
    channels, tokens = x.shape[-1], sum(counts)
    runs = [tokens] if mode == "stream" else counts
    containers = sum(-(-run // container_len) for run in runs)
    hidden = feed_forward[0].shape[0] if feed_forward else 0
    products = tokens * (3 * channels + 2 * hidden) + (mask.numel() if passes else tokens) * channels
    return 2 * products * channels + 4 * containers * container_len**2 * channels
