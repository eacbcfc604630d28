"""MACs of a plain ViT and its pruned relatives, and of the simple feature pyramid behind one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sptcore.models.vit.config import PATCH_SIZE, STAGE, ViTConfig
from sptcore.profiling.macs.cost import Cost, StageCost, same_cost
from sptcore.tasks.detector import HeadsConfig

PATCH_VALUES = PATCH_SIZE**2 * 3


def vit_macs(
    config: ViTConfig,
    grid: tuple[int, int],
    counts: Sequence[Sequence[int]],
    inside: Sequence[int],
    *,
    training: bool = False,
) -> StageCost:
    """MACs of a ViT on a batch of grids (h, w); both conventions count alike.

    `counts`: tokens on the grid after each selecting block, one row a block, one number an image. `inside`: tokens of
    each image before the first block, the rest of the grid being batch padding. DynamicViT computes every token in
    `training`. Blocks run on as many tokens as the fullest image has.
    """
    tokens, batch = grid[0] * grid[1], len(inside)
    costs = [same_cost("backbone", "patch_embed", batch * tokens * PATCH_VALUES * config.dim, STAGE)]
    for index, length in enumerate(_lengths(config, tokens, counts, inside, training)):
        costs += _block(config, index, batch, length)
    ratio = sum(map(sum, counts)) / (len(counts) * batch * tokens) if counts else None
    return StageCost(STAGE, tuple(costs), ratio)


@dataclass(frozen=True)
class _Length:
    """Tokens an image of the batch, the class token included, as one block works on them.

    `attended`: rows with attention; `rows` of the whole batch are projected for it. `fed`: rows of the feed-forward
    network. `predicted`: tokens of an image that a predictor sees. `scored`: whether the class token's attention is
    computed apart.
    """

    attended: int
    rows: int
    fed: int
    predicted: int = 0
    scored: bool = False


def _lengths(
    config: ViTConfig, tokens: int, counts: Sequence[Sequence[int]], inside: Sequence[int], training: bool
) -> Iterator[_Length]:
    there, batch, length, number = list(inside), len(inside), tokens, 0
    for index in range(config.depth):
        if index not in config.select_blocks:
            yield _Length(length + 1, batch * (length + 1), length + 1)
            continue
        kept = counts[number]
        number += 1
        if config.selector == "ground_truth":
            yield _Length(max(kept) + 1, sum(kept) + batch, length + 1)
        elif config.selector == "predictor":
            before, length = length, length if training else max(kept)
            yield _Length(length + 1, batch * (length + 1), length + 1, predicted=before)
        else:
            kept = [_left(config, had, count, number) for had, count in zip(there, kept, strict=True)]
            scored, before = config.keep_rate < 1 and kept != there, length
            length = max(kept) + config.fuse_token if scored else length
            yield _Length(before + 1, batch * (before + 1), length + 1, scored=scored)
            there = [left + (config.fuse_token and left < had) for left, had in zip(kept, there, strict=True)]


def _left(config: ViTConfig, had: int, count: int, number: int) -> int:
    """Tokens that EViT's block `number`, from 1, keeps of `had`, `count` of them on the grid.

    Fused tokens that stay are not on it: of each pruning block before, there may be one.
    """
    if not config.fuse_token:
        return count
    rule = config.kept_tokens(had)[0]
    return rule if 0 < rule - count < number else count


def _block(config: ViTConfig, index: int, batch: int, length: _Length) -> list[Cost]:
    dim, place = config.dim, (STAGE, index + 1)
    parts = {
        "predictor": batch * length.predicted * (dim**2 + dim * (dim // 2) + (dim // 2) * (dim // 4) + dim // 4 * 2),
        "qkv": length.rows * 3 * dim**2,
        "attention": batch * 2 * length.attended**2 * dim,
        "class_attention": batch * length.attended * dim if length.scored else 0,
        "proj": length.rows * dim**2,
        "ffn": batch * length.fed * 2 * dim * int(dim * config.mlp_ratio),
    }
    return [same_cost("backbone", name, macs, *place) for name, macs in parts.items() if macs]


def rule_counts(config: ViTConfig, grid: tuple[int, int], batch: int) -> list[list[int]]:
    """The counts that a pruned ViT's own keep rate comes to on whole grids; a fused token is taken to stay."""
    kept = config.kept_tokens(grid[0] * grid[1])
    return [[count] * batch for count in kept]


def simple_pyramid_macs(config: ViTConfig, grid: tuple[int, int], heads: HeadsConfig, batch: int) -> list[Cost]:
    """MACs of `sptcore.tasks.simple_pyramid` on the map of `grid` (h, w)."""
    cells, dim, width = batch * grid[0] * grid[1], config.dim, heads.fpn_channels
    sums = {"deconv": 0, "inner": 0, "layer": 0}
    for level in map(int, heads.levels):
        mine = cells * 4 ** (2 - level) if level < 3 else batch * (grid[0] // 2) * (grid[1] // 2)
        half, quarter = dim // 2, dim // 4
        deconv = {0: 4 * cells * dim * half + 16 * cells * half * quarter, 1: 4 * cells * dim * half}
        sums["deconv"] += deconv.get(level, 0)
        sums["inner"] += mine * {0: quarter, 1: half}.get(level, dim) * width
        sums["layer"] += mine * 9 * width**2
    return [same_cost("fpn", name, macs) for name, macs in sums.items()]
