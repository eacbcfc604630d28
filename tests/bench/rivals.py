"""What SPT is measured against besides Swin: the two other ways to make a batch of uneven selections rectangular."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.models import block
from sptcore.models.attention import spa
from sptcore.models.attention.base import Attended
from sptcore.models.attention.spa import SelectPackAttention
from sptcore.models.attention.window import WindowAttention
from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.streaming import PIECE_TOKENS, streams
from sptcore.ops.packed_attention.reference import bias_by_space
from sptcore.ops.packing import Packing, gather, plan_packing
from sptcore.ops.selection import Selection
from sptcore.profiling.forced import selecting_blocks
from sptcore.profiling.passes import selecting


class PadToMax(nn.Module):
    """Every image's selected tokens padded to the longest of the batch, all rows projected (SparseViT's public code).

    Containers are cut from the padded rows, so that attention costs what it costs in SPT for images of equal length.
    """

    def __init__(self, inner: SelectPackAttention) -> None:
        super().__init__()
        self.inner = inner
        self.proj = nn.Identity()  # the block projects what attention returns; here all rows were projected before

    def forward(self, normed: Tensor, selection: Selection) -> Attended:
        inner, length = self.inner, self.inner.container_len
        packing = plan_packing(selection.mask, inner.window_size, inner.shift_size, "aligned", length)
        counts = selection.counts
        longest = -(-int(counts.max()) // length) * length
        starts = counts.cumsum(0) - counts
        place = packing.image_id * longest + torch.arange(packing.num_tokens, device=starts.device)
        place -= starts[packing.image_id]
        tokens = gather(normed, packing) * gather(selection.gain, packing).unsqueeze(-1)
        rows = self.spread(tokens, place, len(counts) * longest)
        cells = self.cells(packing, place, len(rows))
        if not streams(self, normed):
            return Attended(self.attend(rows, *cells).index_select(0, place), packing)
        size = max(1, PIECE_TOKENS // length) * length  # as SPT does: what lies between two layers stays in the cache
        parts = zip(rows.split(size), *(one.split(size) for one in cells), strict=True)
        return Attended(torch.cat([self.attend(*part) for part in parts]).index_select(0, place), packing)

    def attend(self, rows: Tensor, real: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Attention and projection of whole containers, (slots, C) -> (slots, C)."""
        inner, length = self.inner, self.inner.container_len
        qkv = inner.qkv(rows).view(-1, length, 3, inner.num_heads, rows.shape[1] // inner.num_heads)
        scores = self.scores(*(one.view(-1, length) for one in (real, row, column)))
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), attn_mask=scores)
        return inner.proj(attended.transpose(1, 2).flatten(2).flatten(0, 1))

    @staticmethod
    def spread(values: Tensor, place: Tensor, slots: int) -> Tensor:
        return values.new_zeros(slots, *values.shape[1:]).index_copy_(0, place, values)

    def cells(self, packing: Packing, place: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each slot: whether a token sits there (bool), its row and its column."""
        real, row, column = torch.ones_like(place, dtype=torch.bool), packing.rows, packing.columns
        return self.spread(real, place, slots), self.spread(row, place, slots), self.spread(column, place, slots)

    def scores(self, real: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Position bias and the mask of pads (containers, h, L, L)."""
        mask = real.unsqueeze(1) == real.unsqueeze(2)  # (containers, L, L)
        table = self.inner.relative_position_bias_table
        return mask.unsqueeze(1) if table is None else bias_by_space(table, mask, row, column, self.inner.window_size)


class MaskOnly(nn.Module):
    """All tokens attend in their windows; what is not selected is multiplied away (DynamicViT's way in training)."""

    def __init__(self, inner: SelectPackAttention, config: Any) -> None:
        super().__init__()
        dim = inner.proj.in_features
        self.window = WindowAttention(dim, inner.num_heads, inner.shift_size, config)
        self.window.load_state_dict(inner.state_dict())
        self.proj = self.window.proj

    def forward(self, normed: Tensor, selection: Selection) -> Attended:
        attended = self.window(normed * selection.gain.unsqueeze(-1))
        return Attended(attended.tokens * selection.weight.unsqueeze(-1))


def use_pad_to_max(model: HierarchicalBackbone) -> HierarchicalBackbone:
    """The same backbone with PadToMax in its selecting blocks."""
    for one in selecting_blocks(model):
        assert isinstance(one.attn, SelectPackAttention)
        one.attn = PadToMax(one.attn)  # type: ignore[assignment]
    return model.eval()


def use_mask_only(model: HierarchicalBackbone) -> HierarchicalBackbone:
    """The same backbone with MaskOnly in its selecting blocks."""
    for one in selecting_blocks(model):
        assert isinstance(one.attn, SelectPackAttention)
        one.attn = MaskOnly(one.attn, model.config)  # type: ignore[assignment]
    return model.to(next(model.parameters()).device).eval()


@torch.inference_mode()
def packing_shares(
    model: HierarchicalBackbone, masks: Sequence[Tensor], images: Tensor, passes: int = 5
) -> dict[str, float]:
    """The shares of a forward pass spent in `plan`, `gather` and `scatter`: those of the pass with the median sum."""
    shares: list[dict[str, float]] = []
    with selecting(model, masks):
        model(images)
        for _ in range(passes):
            with stopwatch(images.device) as spent:
                started = time.perf_counter()
                model(images)
                synchronise(images.device)
                whole = time.perf_counter() - started
            shares.append({name: seconds / whole for name, seconds in spent.items()})
    return sorted(shares, key=lambda one: sum(one.values()))[len(shares) // 2]


def attention_parts(model: HierarchicalBackbone, mask: Tensor, place: int) -> dict[str, Callable[[], object]]:
    """Attention and projection of the selecting block number `place` on random tokens: packed, and padded.

    Both plan their packing themselves. `mask` (B, H, W).
    """
    attention = selecting_blocks(model)[place].attn
    assert isinstance(attention, SelectPackAttention)
    padded = PadToMax(attention).eval()
    generator = torch.Generator().manual_seed(3)
    normed = torch.randn(*mask.shape, attention.proj.in_features, generator=generator).to(mask.device)
    selection = Selection(torch.zeros(mask.shape, device=mask.device), mask.float(), torch.ones_like(mask))

    @torch.inference_mode()
    def packed() -> None:
        attention.proj(attention(normed, selection).tokens)

    @torch.inference_mode()
    def to_longest() -> None:
        padded(normed, selection)

    return {"packed": packed, "pad-to-max": to_longest}


@contextmanager
def stopwatch(device: torch.device) -> Iterator[dict[str, float]]:
    """Sums up the seconds of the calls that plan, and that move tokens between grid and containers."""
    spent = dict.fromkeys(("plan", "gather", "scatter"), 0.0)

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            synchronise(device)
            started = time.perf_counter()
            result = function(*arguments, **named)
            synchronise(device)
            spent[part] += time.perf_counter() - started
            return result

        return run

    plan = {name: timed(getattr(spa, name), "plan") for name in ("plan_packing", "split_containers")}
    moves = {"gather": "gather", "gather_rows": "gather", "scatter": "scatter", "scatter_rows_": "scatter"}
    there = {name: timed(getattr(block, name), part) for name, part in moves.items()}
    with mock.patch.multiple(spa, **plan, gather=timed(spa.gather, "gather")), mock.patch.multiple(block, **there):
        yield spent


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
