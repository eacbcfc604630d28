"""MACs of one block of a hierarchical backbone, by what the block is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sptcore.models.attention.deformable import KERNELS
from sptcore.models.config import BackboneConfig
from sptcore.profiling.macs.cost import Cost, same_cost


@dataclass(frozen=True)
class Taken:
    """What one block selects of each image: `tokens`, and the `windows` of Swin's grid in which they lie."""

    tokens: Sequence[int]
    windows: Sequence[int]


def windows_of(grid: tuple[int, int], window_size: int) -> int:
    """Windows of a grid of (h, w) tokens, padded to multiples of the window."""
    return -(-grid[0] // window_size) * -(-grid[1] // window_size)


def whole_windows(tokens: int, grid: tuple[int, int], window_size: int) -> int:
    """The windows in which `tokens` lie where they fill windows of the mean size whole: as few as there can be, about.

    Scattered tokens, as labels select them, lie in more; the very number is known to who has the mask.
    """
    return -(-tokens * windows_of(grid, window_size) // (grid[0] * grid[1]))


def window_block(config: BackboneConfig, stage: int, block: int, grid: tuple[int, int], batch: int) -> list[Cost]:
    """Shifted window attention. Ours projects real tokens and one pad row an image; the paper's, all pad cells."""
    channels, length = config.channels[stage - 1], config.window_size**2
    tokens = grid[0] * grid[1]
    padded = length * windows_of(grid, config.window_size)
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


def gather_block(config: BackboneConfig, stage: int, block: int, tokens: int, taken: Taken) -> list[Cost]:
    """Attention gathered in selected windows; `tokens` N of the whole batch.

    Ours projects selected tokens only, and attends in whole windows; the paper's way to count pads these first.
    """
    channels, length, selected = config.channels[stage - 1], config.window_size**2, sum(taken.tokens)
    padded = length * sum(taken.windows)
    skips = config.ffn == "selected" or config.bypass == "skip_block"
    projected = tokens if config.bypass == "proj" else selected
    place = (stage, block)
    return [
        same_cost("backbone", "gate", tokens * channels if config.uses_gates else 0, *place),
        Cost("backbone", "qkv", selected * 3 * channels**2, padded * 3 * channels**2, *place),
        same_cost("backbone", "attention", padded * 2 * length * channels, *place),
        Cost("backbone", "proj", projected * channels**2, padded * channels**2, *place),
        same_cost("backbone", "ffn", _ffn(config, channels, selected if skips else tokens), *place),
    ]


def dynamic_block(config: BackboneConfig, dense: list[Cost], ways: tuple[int, int], *, judged: int) -> list[Cost]:
    """DynamicSwin: the attention of the `dense` block, then `ways`: tokens of the full and of the short network.

    `judged`: tokens that a predictor looks at, 0 in a block that keeps to the decision of an earlier one.
    """
    place = (dense[0].stage, dense[0].block)
    channels = config.channels[place[0] - 1]
    half, quarter = channels // 2, channels // 4
    predictor = channels**2 + channels * half + half * quarter + quarter * 2
    return [
        *([same_cost("backbone", "predictor", judged * predictor, *place)] if judged else []),
        *(cost for cost in dense if cost.component != "ffn"),
        same_cost("backbone", "ffn", _ffn(config, channels, ways[0]), *place),
        same_cost("backbone", "fast_mlp", ways[1] * channels**2, *place),
    ]


def deformable_block(config: BackboneConfig, stage: int, block: int, grid: tuple[int, int], batch: int) -> list[Cost]:
    """DAT: offsets read off the queries, attention of all tokens to as many sampled ones. Sampling counts nothing."""
    channels, tokens = config.channels[stage - 1], grid[0] * grid[1]
    offset = channels * (KERNELS[stage - 1] ** 2 + 2)  # a depthwise convolution, and two values from every channel
    place = (stage, block)
    return [
        same_cost("backbone", "qkv", batch * tokens * 3 * channels**2, *place),
        same_cost("backbone", "offsets", batch * tokens * offset, *place),
        same_cost("backbone", "attention", batch * 2 * tokens**2 * channels, *place),
        same_cost("backbone", "proj", batch * tokens * channels**2, *place),
        same_cost("backbone", "ffn", _ffn(config, channels, batch * tokens), *place),
    ]


def _ffn(config: BackboneConfig, channels: int, rows: int) -> int:
    return rows * 2 * channels * int(channels * config.mlp_ratio)
