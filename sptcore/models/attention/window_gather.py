"""Window attention in selected windows only, gathered (SparseViT, arXiv 2303.17605; ALGORITHM 4.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from sptcore.models.attention.base import Attended, AttendedInPieces
from sptcore.models.attention.window import WindowAttention
from sptcore.models.streaming import PIECE_TOKENS, streams
from sptcore.ops.packing import Packing, gather, pack, plan_windows, split_containers, unpack
from sptcore.ops.selection import Selection
from sptcore.ops.windows import window_order


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of the gathered windows: `filled` (A, M*M) bool, those that are attended to (None: all); `pads`
    (A, M*M) bool, the pad cells among them, zero tokens (None: none); `regions` (A, M*M): Swin's region of each (None:
    one).
    """

    filled: Tensor | None
    pads: Tensor | None
    regions: Tensor | None

    def rows(self, first: int, last: int) -> _Cells:
        """Those of a run of windows."""
        return _Cells(*(None if one is None else one[first:last] for one in (self.filled, self.pads, self.regions)))


class WindowGatherAttention(WindowAttention):
    """Selected tokens attend to the selected tokens of their window; windows without any are left out.

    Only selected tokens are projected. In a window whose tokens of the image are all selected, pad cells take part as
    zero tokens, as in Swin; with every token selected this is Swin's attention at any size.
    """

    def forward(self, normed: Tensor, selection: Selection | None = None) -> Attended:
        if selection is None:
            return super().forward(normed)
        packing = plan_windows(selection.mask, self.window_size, self.shift_size)
        cells, gain = _cells_of(packing, selection.valid), selection.gain.to(normed.dtype)
        if not streams(self, normed):
            return Attended(self._gathered(normed, gain, packing, cells), packing)
        runs = split_containers(packing, max(1, PIECE_TOKENS // self.window_size**2))
        lasts = list(accumulate(part.num_containers for _, part in runs))
        parts = (
            (part, self._gathered(normed, gain, part, cells.rows(last - part.num_containers, last)))
            for (_, part), last in zip(runs, lasts, strict=True)
        )
        return AttendedInPieces(parts, packing, normed)

    def _gathered(self, normed: Tensor, gain: Tensor, packing: Packing, cells: _Cells) -> Tensor:
        """(B, H, W, C) and the factor of each token (B, H, W) -> (P, C)."""
        tokens = gather(normed, packing) * gather(gain, packing).unsqueeze(-1)
        qkv = pack(self.qkv(tokens), packing)  # (A, M*M, 3C)
        if cells.pads is not None:
            qkv = qkv + cells.pads.unsqueeze(-1) * self.qkv.bias.to(qkv.dtype)
        scores = self._scores(cells, qkv.dtype)
        attended = unpack(self._attend(qkv, scores), packing)
        if not packing.num_containers:
            attended = attended + scores.sum()  # nothing, but torch hands no gradient to a mask of no window
        return attended

    def _scores(self, cells: _Cells, dtype: torch.dtype) -> Tensor:
        """Position biases, -inf for keys that are empty or of another region: (A, h, M*M, M*M).

        An empty cell sees itself, so that no row of the softmax is without a key; nobody reads what comes of it. One
        for all windows, (1, h, M*M, M*M), where nothing is closed.
        """
        scores = self._bias(dtype)
        if cells.filled is not None:
            itself = torch.eye(cells.filled.shape[1], dtype=torch.bool, device=cells.filled.device)
            scores = scores.masked_fill(~(cells.filled[:, None, None, :] | itself), -math.inf)
        if cells.regions is not None:
            closed = cells.regions[:, None, :, None] != cells.regions[:, None, None, :]
            scores = scores.masked_fill(closed, -math.inf)
        return scores


def _cells_of(packing: Packing, valid: Tensor) -> _Cells:
    _, height, width = packing.grid
    length = packing.container_len
    order = window_order(
        height, width, window_size=packing.window_size, shift_size=packing.shift_size, device=valid.device
    )
    if packing.contiguous and not order.is_shifted:
        return _Cells(None, None, None)
    filled = torch.zeros(packing.num_containers * length, dtype=torch.bool, device=valid.device)
    filled = filled.index_fill_(0, packing.slot, True).view(-1, length)
    first = packing.cu_seqlens[:-1].long()  # the first token of each window
    window, image = packing.windows[first], packing.image_id[first]
    regions = order.regions.view(-1, length)[window] if order.is_shifted else None
    if not order.has_pads:
        return _Cells(filled, None, regions)
    cells = order.cells.view(-1, length)[window]
    inside = F.pad(valid.flatten(1), (0, 1))[image.unsqueeze(1), cells]
    whole = (filled | ~inside).all(1, keepdim=True)
    pads = (cells == height * width) & whole
    return _Cells(filled | pads, pads, regions)
