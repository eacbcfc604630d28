"""Attention mechanisms, the executors of a block. One table, ATTENTIONS.

Each is built as `cls(dim, num_heads, shift_size, config)` and called as `attention(normed, selection)`: the token grid
(B, H, W, C) after the first norm, and the block's Selection (None in a dense block). It answers `Attended`; the block
applies `attention.proj`, since it is the bypass that knows which tokens take it.
"""

from __future__ import annotations

from sptcore.models.attention.base import Attention
from sptcore.models.attention.deformable import DeformableAttention
from sptcore.models.attention.spa import SelectPackAttention
from sptcore.models.attention.window import WindowAttention
from sptcore.models.attention.window_gather import WindowGatherAttention

ATTENTIONS: dict[str, type[Attention]] = {
    "window": WindowAttention,
    "spa": SelectPackAttention,
    "window_gather": WindowGatherAttention,
    "deformable": DeformableAttention,
}
