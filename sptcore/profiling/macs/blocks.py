"""MACs of one block of a hierarchical backbone, by what the block is made of."""

from __future__ import annotations

from collections.abc import Sequence

from sptcore.models.config import BackboneConfig
from sptcore.profiling.macs.cost import Cost, same_cost


def window_block(config: BackboneConfig, stage: int, block: int, grid: tuple[int, int], batch: int) -> list[Cost]:
    """Shifted window attention. Ours projects real tokens and one pad row an image; the paper's, all pad cells."""
    channels, length = config.channels[stage - 1], config.window_size**2
    tokens = grid[0] * grid[1]
    padded = length * (-(-grid[0] // config.window_size)) * (-(-grid[1] // config.window_size))
    rows = tokens + (padded > tokens)
    place = (stage, block)
    return [
        Cost("backbone", "qkv", batch * rows * 3 * channels**2, batch * padded * 3 * channels**2, *place),
        same_cost("backbone", "attention", batch * padded * 2 * length * channels, *place),
        Cost("backbone", "proj", batch * tokens * channels**2, batch * padded * channels**2, *place),
        same_cost("backbone", "ffn", _ffn(config, channels, batch * tokens), *place),
    ]


def spa_block(
    config: BackboneConfig, stage: int, block: int, tokens: int, counts: Sequence[int], packing: str
) -> list[Cost]:
    """Select and pack attention; `tokens` N of the whole batch, `counts` P of each image (Eq. 9)."""
    channels, length, selected = config.channels[stage - 1], config.packed_len, sum(counts)
    stream = -(-selected // length)  # B' = ceil(P / L)
    containers = stream if packing == "stream" else sum(-(-count // length) for count in counts)
    skips = config.ffn == "selected" or config.bypass == "skip_block"
    projected = tokens if config.bypass == "proj" else selected
    core = 2 * length**2 * channels
    place = (stage, block)
    return [
        same_cost("backbone", "gate", tokens * channels if config.uses_gates else 0, *place),
        Cost("backbone", "qkv", selected * 3 * channels**2, stream * length * 3 * channels**2, *place),
        Cost("backbone", "attention", containers * core, stream * core, *place),
        Cost("backbone", "proj", projected * channels**2, tokens * channels**2, *place),
        same_cost("backbone", "ffn", _ffn(config, channels, selected if skips else tokens), *place),
    ]


def _ffn(config: BackboneConfig, channels: int, rows: int) -> int:
    return rows * 2 * channels * int(channels * config.mlp_ratio)
