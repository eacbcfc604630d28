"""Attention inside containers: a token attends to the tokens of its own image that share its container."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sptcore.ops.backend import choose_impl
from sptcore.ops.packed_attention.operator import attend_rows
from sptcore.ops.packed_attention.reference import attend, bias_by_slot, bias_by_space, pair_mask
from sptcore.ops.packing import Packing, pack, unpack

SCOPES = ("image", "image_region", "image_window")
BIASES = ("spatial", "slot", "none")
MAX_HEAD_DIM = 64  # of the kernel: longer heads spill registers


@dataclass(frozen=True, eq=False)
class PositionBias:
    """Swin's table of relative position biases and how pairs of packed tokens look it up.

    `table` ((2M-1)^2, h). `by="spatial"`: the offset of the two tokens on the grid, clipped to +-(M-1) on each axis.
    `by="slot"`: the offset of the two slots, read as places of an M x M window; needs L = M^2.
    """

    table: Tensor
    window_size: int
    by: str = "spatial"


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    bias: PositionBias | None = None,
    scope: str = "image",
    impl: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v over the pairs that `scope` lets see each other; (P, h, d) each -> (P, h, d).

    `scope`: `image` (same container and image: the paper), `image_region` (and the same region of Swin's shift mask),
    `image_window` (and the same window: Swin without background). P = 0 gives an empty result and zero gradients.
    Raises ValueError for an unknown scope, a bias that does not fit, or a kernel that cannot run.
    """
    check_request(bias, scope, packing.container_len)
    chosen = choose_impl("packed_attention", impl, query.device, limit=kernel_limit(query))
    attend_in = _attend_by_kernel if chosen == "kernel" else _attend_by_reference
    return attend_in(query, key, value, packing, bias, scope)


def kernel_limit(query: Tensor) -> str | None:
    """What of a query (P, h, d) the kernel cannot take, in words, or None."""
    if query.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it takes float32, float16 and bfloat16, not {query.dtype}"
    if query.shape[-1] > MAX_HEAD_DIM:
        return f"it takes heads of up to {MAX_HEAD_DIM} channels, not {query.shape[-1]}"
    return None


def _attend_by_reference(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, bias: PositionBias | None, scope: str
) -> Tensor:
    mask = None if _all_see_all(packing, scope) else pair_mask(pack(segment_ids(packing, scope) + 1, packing))
    if bias is None:
        scores = mask
    elif bias.by == "slot":
        scores = bias_by_slot(bias.table, mask, bias.window_size)
    else:
        rows, columns = pack(packing.rows, packing), pack(packing.columns, packing)
        scores = bias_by_space(bias.table, mask, rows, columns, bias.window_size)
    return unpack(attend(pack(query, packing), pack(key, packing), pack(value, packing), scores), packing)


def _all_see_all(packing: Packing, scope: str) -> bool:
    """Whether no pair of slots is closed, as far as that can be told without waiting for a device."""
    if scope != "image" or packing.num_tokens < packing.num_containers * packing.container_len:
        return False
    image_id = packing.image_id
    return packing.grid[0] == 1 or (image_id.is_cpu and len(image_id) > 0 and bool(image_id[0] == image_id[-1]))


def _attend_by_kernel(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, bias: PositionBias | None, scope: str
) -> Tensor:
    if torch.is_autocast_enabled(query.device.type):  # as scaled_dot_product_attention does
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attended, _ = attend_rows(
        query,
        key,
        value,
        packing.cu_seqlens,
        packing.token_index,
        None if scope == "image" else segment_ids(packing, scope),
        None if bias is None else bias.table,
        packing.grid[1],
        packing.grid[2],
        packing.container_len,
        1 if bias is None else bias.window_size,
        bias is not None and bias.by == "slot",
    )
    return attended


def segment_ids(packing: Packing, scope: str) -> Tensor:
    """(P,) int64: tokens of one container attend to each other where these ids are equal."""
    if scope == "image":
        return packing.image_id
    ids = packing.image_id * 9 + packing.regions
    if scope == "image_region":
        return ids
    return ids * (packing.grid[1] * packing.grid[2]) + packing.windows


def check_request(bias: PositionBias | None, scope: str, container_len: int) -> None:
    """Raise ValueError for an unknown scope, and for a bias that does not fit containers of that length."""
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    if bias is None:
        return
    if bias.by not in BIASES or bias.by == "none":
        raise ValueError(f"a bias goes by 'spatial' or 'slot', got {bias.by!r}")
    if bias.by == "slot" and container_len != bias.window_size**2:
        raise ValueError(
            f"a bias by slot needs containers of window_size ** 2 = {bias.window_size**2} slots, "
            f"not {container_len}: use a spatial bias or none"
        )
