"""Tokens of a batch that get fewer from block to block, and the way back to the grid they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sptcore.ops.selection import Selection


@dataclass(frozen=True, eq=False)
class TokenRow:
    """Rows of tokens, one an image, the class token first; shorter images leave slots empty.

    `x` (B, 1 + K, C). `places` (B, K) int64: the grid cell of each, `cells` where there is none: in an empty slot, and
    for a fused token. `counts`: tokens of each image without the class token, on the host. `valid` (B, K) bool: the
    slots that are not empty, None when all are filled.
    """

    x: Tensor
    places: Tensor
    counts: tuple[int, ...]
    cells: int
    valid: Tensor | None = None

    @classmethod
    def of_grid(cls, x: Tensor, valid: Tensor | None, counts: Sequence[int]) -> TokenRow:
        """All cells of a grid, `x` (B, 1 + N, C); those of batch padding are in it, but not in `valid` (B, N)."""
        batch, length = x.shape[0], x.shape[1] - 1
        places = torch.arange(length, device=x.device).expand(batch, -1)
        return cls(x, places, tuple(counts), length, valid)

    @property
    def keys(self) -> Tensor | None:
        """(B, 1 + K) bool: what may be attended to; None for everything."""
        return None if self.valid is None else torch.nn.functional.pad(self.valid, (1, 0), value=True)

    @property
    def filled(self) -> Tensor:
        """(B, K) bool: slots with a token."""
        return torch.ones_like(self.places, dtype=torch.bool) if self.valid is None else self.valid

    def keep(self, kept: Tensor, counts: Sequence[int]) -> TokenRow:
        """The tokens in `kept` (B, K) bool, `counts` of each image, in their order."""
        length = max(counts)
        order = torch.argsort(kept.logical_not().byte(), dim=1, stable=True)[:, :length]
        rows = self.x[:, 1:].gather(1, order.unsqueeze(-1).expand(-1, -1, self.x.shape[-1]))
        places, valid = self.places.gather(1, order), None
        if min(counts) < length:
            valid = kept.gather(1, order)
            places = places.masked_fill(~valid, self.cells)
        return replace(self, x=torch.cat([self.x[:, :1], rows], 1), places=places, counts=tuple(counts), valid=valid)

    def append(self, token: Tensor, present: Sequence[bool]) -> TokenRow:
        """One more token an image, (B, C), of no cell; images that are not `present` get an empty slot."""
        nowhere = torch.full_like(self.places[:, :1], self.cells)
        valid = self.valid
        if valid is not None or not all(present):
            there = torch.tensor(list(present), device=self.x.device).unsqueeze(1)
            valid = torch.cat([self.filled, there], 1)
        return replace(
            self,
            x=torch.cat([self.x, token.to(self.x.dtype).unsqueeze(1)], 1),
            places=torch.cat([self.places, nowhere], 1),
            counts=tuple(count + here for count, here in zip(self.counts, present, strict=True)),
            valid=valid,
        )

    def onto(self, canvas: Tensor | None) -> Tensor:
        """Write the tokens onto their cells of `canvas` (B, N, C): dropped ones keep the value they had there."""
        if canvas is None:
            return self.x[:, 1:]
        spare = torch.cat([canvas, canvas[:, :1]], 1)  # the last row takes what has no cell
        places = self.places.unsqueeze(-1).expand(-1, -1, canvas.shape[-1])
        return spare.scatter(1, places, self.x[:, 1:].to(spare.dtype))[:, :-1]

    def selection(self, inside: Tensor, scores: Tensor | None = None) -> Selection:
        """Which cells of the grid are still there; `inside` (B, H, W) bool, `scores` (B, N) of those that had one."""
        batch, height, width = inside.shape
        dtype = torch.promote_types(self.x.dtype, torch.float32)
        there = torch.zeros(batch, self.cells + 1, dtype=dtype, device=self.x.device).scatter(1, self.places, 1.0)
        weight = there[:, :-1].view(batch, height, width) * inside
        logits = torch.zeros_like(weight) if scores is None else scores.to(dtype).view_as(weight)
        return Selection(logits, weight, inside, gated=False)

    def on_cells(self, scores: Tensor) -> Tensor:
        """Scores (B, K) of the tokens on the grid, (B, N); -inf where no token has one."""
        grid = scores.new_full((len(scores), self.cells + 1), -torch.inf)
        return grid.scatter(1, self.places, scores.detach())[:, :-1]
