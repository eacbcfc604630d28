"""Deformable attention of DAT (arXiv 2201.00520): keys and values are read where the queries point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.models.attention.base import Attended, Attention
from sptcore.models.recompute import in_pieces, pairs_at_once
from sptcore.ops.linear import linear
from sptcore.ops.selection import Selection

if TYPE_CHECKING:
    from sptcore.models.config import BackboneConfig

HEADS_OF_A_GROUP = 4
KERNELS = (9, 7, 5, 3)  # of the offset network, by stage
TABLE_SIDES = (56, 28, 14, 7)  # the grid of each stage at 224 x 224 pixels, where the bias table was made
OFFSET_RANGE = 2.0  # in tokens
PAIRS_AT_ONCE = 1 << 21  # of a query and a key, in one head of one image, in evaluation


class DeformableAttention(Attention):
    """Every token attends to as many places as the grid has tokens, the same for all tokens of an image.

    Each group of heads moves every place of a regular grid by an offset read off the queries there, and samples the
    tokens bilinearly where it lands. Position biases are sampled from a table at the distance between token and place,
    in units of the grid, whatever its size. Tokens of batch padding take part, as in Swin's windows.
    """

    def __init__(self, dim: int, num_heads: int, shift_size: int, config: BackboneConfig) -> None:
        super().__init__(dim, num_heads, shift_size, config, with_table=False)
        stage = config.stage_of(dim)
        self.groups = num_heads // HEADS_OF_A_GROUP if num_heads % HEADS_OF_A_GROUP == 0 else 1
        side = 2 * TABLE_SIDES[stage - 1] - 1
        self.relative_position_bias_table = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(num_heads, side, side), std=0.01)
        )
        self.offsets = OffsetNetwork(dim // self.groups, KERNELS[stage - 1])

    def forward(self, normed: Tensor, selection: Selection | None = None) -> Attended:
        batch, height, width, dim = normed.shape
        weight, bias = self.qkv.weight, self.qkv.bias
        query = linear(normed, weight[:dim], bias[:dim])
        grid = reference_places(height, width, normed.device)
        places = grid + self.offsets(self._grouped(query)).to(grid.dtype)  # (B*g, H, W, 2)
        sampled = sample(self._grouped(normed), places)  # (B*g, C/g, H, W)
        tokens = sampled.view(batch, dim, height * width).transpose(1, 2)
        key, value = linear(tokens, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        query, key, value = (self._heads(part.flatten(1, -2)) for part in (query, key, value))
        mixed = self._attend(query, key, value, grid.flatten(0, 1), places.flatten(1, 2))
        return Attended(mixed.transpose(1, 2).reshape(normed.shape))

    def _grouped(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) -> (B*g, C/g, H, W): each group of channels is an image of its own."""
        return tokens.permute(0, 3, 1, 2).unflatten(1, (self.groups, -1)).flatten(0, 1)

    def _heads(self, rows: Tensor) -> Tensor:
        """(B, N, C) -> (B, h, N, C/h)."""
        return rows.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, grid: Tensor, places: Tensor) -> Tensor:
        """(B, h, N, C/h) each, queries at `grid` (N, 2), keys at `places` (B*g, N, 2) -> (B, h, N, C/h).

        A few queries at a time, since there are N^2 biases a head; in training computed again in the backward pass.
        """

        def attended(some: Tensor, at: Tensor) -> Tensor:
            bias = self._bias(at, places).view(*some.shape[:3], -1).to(some.dtype)
            return F.scaled_dot_product_attention(some, key, value, attn_mask=bias)

        training, maps = torch.is_grad_enabled(), query.shape[0] * query.shape[1]
        pairs = pairs_at_once(query.device) // maps if training else PAIRS_AT_ONCE
        step = max(1, pairs // len(grid))
        return in_pieces(attended, zip(query.split(step, dim=2), grid.split(step), strict=True), dim=2)

    def _bias(self, grid: Tensor, places: Tensor) -> Tensor:
        """Position biases (B*g, h/g, queries, keys), sampled at half the displacement: the table spans both sides."""
        table = self.relative_position_bias_table
        assert table is not None
        tables = table.unflatten(0, (self.groups, -1)).repeat(len(places) // self.groups, 1, 1, 1)
        return sample(tables, (grid[None, :, None] - places[:, None]) / 2)


class OffsetNetwork(nn.Module):
    """How far places move, up to OFFSET_RANGE tokens: depthwise convolution, norm, GELU, Linear to two values."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, 2, bias=False)

    def forward(self, queries: Tensor) -> Tensor:
        """`queries` (B*g, C/g, H, W) -> offsets (B*g, H, W, 2), rows then columns, the grid spanning -1 to 1."""
        moved = torch.tanh(self.fc(F.gelu(self.norm(self.conv(queries).permute(0, 2, 3, 1)))))
        height, width = queries.shape[-2:]
        return OFFSET_RANGE * torch.stack([moved[..., 0] / height, moved[..., 1] / width], dim=-1)


def reference_places(height: int, width: int, device: torch.device) -> Tensor:
    """The middle of every cell of a grid that spans -1 to 1, (H, W, 2) float32, row before column."""
    rows, columns = (
        (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side * 2 - 1 for side in (height, width)
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def sample(maps: Tensor, places: Tensor) -> Tensor:
    """Bilinear values of `maps` (n, c, H, W) at `places` (n, h, w, 2), row before column -> (n, c, h, w).

    -1 and 1 are the middles of the outer cells; outside there is zero. Computed in float32 or wider.
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    sampled = F.grid_sample(maps.to(dtype), places.flip(-1).to(dtype), mode="bilinear", align_corners=True)
    return sampled.to(maps.dtype)
