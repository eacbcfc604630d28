"""Packing in buffers with room for every token: what is planned where nobody may ask how many were selected."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sptcore.ops.packing import Packing
from sptcore.ops.windows import window_order


@dataclass(frozen=True)
class PackingRule:
    """How the selected tokens are packed, as in `plan_packing`, and which of them see each other (`scope`)."""

    window_size: int
    shift_size: int
    mode: str
    container_len: int
    scope: str = "image"


def plan_on_device(mask: Tensor, rule: PackingRule) -> tuple[Packing, Tensor]:
    """The packing of `mask` (B, H, W) in buffers for every token, and `starts` (B' + 1,) int32 of its containers.

    B' is what a full mask would need; containers behind the last token are empty. The number of tokens is `starts[-1]`;
    the entries of `token_index`, `image_id` and `position` behind it are zero, `slot` is not laid out.
    """
    from sptcore.ops.packing import kernel

    batch, height, width = mask.shape
    order = window_order(height, width, window_size=rule.window_size, shift_size=rule.shift_size, device=mask.device)
    token_index, image_id, position, counts = kernel.compact(mask.flatten(1), order.cells)
    contiguous = rule.mode == "stream" or batch == 1
    starts = (_stream_starts if contiguous else _aligned_starts)(counts, height * width, rule.container_len)
    packing = Packing(
        grid=(batch, height, width),
        window_size=rule.window_size,
        shift_size=rule.shift_size,
        container_len=rule.container_len,
        num_containers=starts.numel() - 1,
        contiguous=contiguous,
        token_index=token_index,
        image_id=image_id,
        position=position,
        slot=token_index[:0],
    )
    return packing, starts


def _stream_starts(counts: Tensor, tokens: int, length: int) -> Tensor:
    containers = -(-counts.numel() * tokens // length)
    first = torch.arange(containers + 1, device=counts.device) * length
    return torch.minimum(first, counts.sum()).int()


def _aligned_starts(counts: Tensor, tokens: int, length: int) -> Tensor:
    """Every image starts at a container of its own; images without tokens have none."""
    needed = (counts + length - 1).div(length, rounding_mode="floor")
    number = torch.arange(counts.numel() * -(-tokens // length) + 1, device=counts.device)
    image = torch.searchsorted(needed.cumsum(0), number, right=True).clamp_(max=counts.numel() - 1)
    first_container, first_row = needed.cumsum(0) - needed, counts.cumsum(0) - counts
    return torch.minimum(first_row[image] + (number - first_container[image]) * length, counts.sum()).int()
