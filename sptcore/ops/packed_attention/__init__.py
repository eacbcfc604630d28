"""Attention inside containers: a token attends to the tokens of its own image that share its container."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sptcore.ops.backend import choose_impl
from sptcore.ops.packed_attention.reference import attend, bias_by_slot, bias_by_space, pair_mask
from sptcore.ops.packing import Packing, pack, unpack

SCOPES = ("image", "image_region", "image_window")
BIASES = ("spatial", "slot", "none")


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
    Raises ValueError for an unknown scope or a bias that does not fit, EnvironmentFault for a kernel that cannot run.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    choose_impl("packed_attention", impl, "no kernel is built for this device")
    mask = pair_mask(pack(segment_ids(packing, scope) + 1, packing))
    if bias is None:
        scores = mask
    elif bias.by == "slot":
        scores = bias_by_slot(bias.table, mask, _window_of_slots(bias, packing))
    elif bias.by == "spatial":
        rows, columns = pack(packing.rows, packing), pack(packing.columns, packing)
        scores = bias_by_space(bias.table, mask, rows, columns, bias.window_size)
    else:
        raise ValueError(f"a bias goes by 'spatial' or 'slot', got {bias.by!r}")
    return unpack(attend(pack(query, packing), pack(key, packing), pack(value, packing), scores), packing)


def segment_ids(packing: Packing, scope: str) -> Tensor:
    """(P,) int64: tokens of one container attend to each other where these ids are equal."""
    if scope == "image":
        return packing.image_id
    ids = packing.image_id * 9 + packing.regions
    if scope == "image_region":
        return ids
    return ids * (packing.grid[1] * packing.grid[2]) + packing.windows


def _window_of_slots(bias: PositionBias, packing: Packing) -> int:
    if packing.container_len != bias.window_size**2:
        raise ValueError(
            f"a bias by slot needs containers of window_size ** 2 = {bias.window_size**2} slots, "
            f"not {packing.container_len}: use a spatial bias or none"
        )
    return bias.window_size
