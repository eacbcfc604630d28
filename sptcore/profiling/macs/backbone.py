"""MACs of a hierarchical backbone: its grids, its stages, the counts a select ratio means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sptcore.models.config import BackboneConfig
from sptcore.models.variants import AnyBackboneConfig
from sptcore.models.vit.config import STAGE, ViTConfig
from sptcore.profiling.forced import selected_tokens
from sptcore.profiling.macs.blocks import (
    Taken,
    deformable_block,
    dynamic_block,
    gather_block,
    spa_block,
    whole_windows,
    window_block,
)
from sptcore.profiling.macs.cost import StageCost, same_cost
from sptcore.profiling.macs.vit import rule_counts, vit_macs

PATCH_VALUES = 4 * 4 * 3


@dataclass(frozen=True)
class Mode:
    """How a pass runs: the packing in use, and whether the model trains."""

    packing: str
    training: bool = False


Counts = Sequence[Sequence[int]]  # selected tokens: one row a selecting block in network order, one number an image


def stage_grids(height: int, width: int) -> list[tuple[int, int]]:
    """The token grid (h, w) of each of the four stages for an image of height x width pixels: nested ceilings."""
    grids = [(-(-height // 4), -(-width // 4))]
    for _ in range(3):
        grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    return grids


def spa_places(config: AnyBackboneConfig) -> list[tuple[int, int]]:
    """(stage, block), both from 1, of every selecting block in network order."""
    return [(stage, block + 1) for stage, block in config.select_places]


def uniform_counts(
    config: AnyBackboneConfig, height: int, width: int, ratio: float | Sequence[float], batch: int = 1
) -> list[list[int]]:
    """The counts that a select ratio means: the same for every block, or one a selecting block in network order.

    The ratios that a pruned ViT has of its own mean what its keep rate comes to on whole grids, to the token.
    """
    places, grids = spa_places(config), stage_grids(height, width)
    if isinstance(config, ViTConfig) and ratio == config.fixed_ratios:
        return rule_counts(config, grids[STAGE - 1], batch)
    ratios = [ratio] * len(places) if isinstance(ratio, (int, float)) else list(ratio)
    if len(ratios) != len(places):
        raise ValueError(f"{len(ratios)} ratios for {len(places)} selecting blocks")
    tokens = [grids[stage - 1][0] * grids[stage - 1][1] for stage, _ in places]
    count_of = selected_tokens if config.fixed_ratios is None else kept_tokens
    return [[count_of(share, count)] * batch for share, count in zip(ratios, tokens, strict=True)]


def kept_tokens(ratio: float, tokens: int) -> int:
    """How many of `tokens` a model of fixed ratios keeps in evaluation, as `sptcore.ops.selection.floor_share`."""
    return int(Fraction(str(ratio)) * tokens)


def backbone_macs(
    config: AnyBackboneConfig,
    height: int,
    width: int,
    ratio: float | Sequence[float] = 1.0,
    batch: int = 1,
    *,
    counts: Counts | None = None,
    windows: Counts | None = None,
    image_sizes: Sequence[tuple[int, int]] | None = None,
    packing: str | None = None,
    training: bool = False,
) -> list[StageCost]:
    """MACs of a backbone for `batch` images of height x width, by stage.

    `ratio`: share of tokens every selecting block keeps, or one a block; `counts` instead gives the very numbers.
    `windows`: in how many windows these tokens lie, laid out as `counts`, for attention = window_gather; by default as
    few as hold them (`whole_windows`). `image_sizes`: (height, width) of each image where the rest of the frame is
    batch padding; only EViT, which drops a share of what an image has, asks for it. `packing`: stream | aligned, by
    default the config's. `training`: what a forward pass in training runs, where that is something else (DynamicSwin:
    every token goes both ways). Raises ValueError for ratios, counts or windows that do not fit the selecting blocks.
    """
    if counts is None:
        counts = uniform_counts(config, height, width, ratio, batch)
    if windows is None:
        windows = counts if isinstance(config, ViTConfig) else _fewest_windows(config, height, width, counts)
    for name, rows in (("counts", counts), ("windows", windows)):
        if len(rows) != config.num_spa_blocks or any(len(row) != batch for row in rows):
            raise ValueError(f"{name} must be {config.num_spa_blocks} rows of {batch}")
    if isinstance(config, ViTConfig):
        frame = (height, width)
        inside = [_tokens_of(size, STAGE) for size in image_sizes or [frame] * batch]
        return [vit_macs(config, stage_grids(*frame)[STAGE - 1], counts, inside, training=training)]
    left = [Taken(tokens, mine) for tokens, mine in zip(counts, windows, strict=True)]
    mode = Mode(packing or (config.train_packing if training else config.eval_packing), training)
    stages = []
    for stage, grid in enumerate(stage_grids(height, width), start=1):
        mine, left = left[: config.spa_blocks[stage - 1]], left[config.spa_blocks[stage - 1] :]
        stages.append(_stage(config, stage, grid, batch, mine, mode))
    return stages


def _tokens_of(size: tuple[int, int], stage: int) -> int:
    """Tokens at `stage` of an image of (height, width) pixels."""
    rows, columns = stage_grids(*size)[stage - 1]
    return rows * columns


def _fewest_windows(config: BackboneConfig, height: int, width: int, counts: Counts) -> list[list[int]]:
    grids = stage_grids(height, width)
    return [
        [whole_windows(count, grids[stage - 1], config.window_size) for count in row]
        for (stage, _), row in zip(spa_places(config), counts, strict=False)
    ]


def _stage(
    config: BackboneConfig, stage: int, grid: tuple[int, int], batch: int, taken: Sequence[Taken], mode: Mode
) -> StageCost:
    channels, tokens = config.channels[stage - 1], batch * grid[0] * grid[1]
    way_in = ("patch_embed", PATCH_VALUES) if stage == 1 else ("merging", 2 * channels)  # 4C/2 values in, C out
    costs = [same_cost("backbone", way_in[0], tokens * way_in[1] * channels, stage)]
    decisions, now = iter(taken), Taken((), ())
    for index in range(config.depths[stage - 1]):
        selects, block = (stage, index) in config.select_places, index + 1
        now = next(decisions) if selects else now
        if config.is_dynamic(stage, index):
            ways = (tokens, tokens) if mode.training else (sum(now.tokens), tokens - sum(now.tokens))
            dense = window_block(config, stage, block, grid, batch)
            costs += dynamic_block(config, dense, ways, judged=tokens if selects else 0)
        elif config.deforms(stage, index):
            costs += deformable_block(config, stage, block, grid, batch)
        elif not selects:
            costs += window_block(config, stage, block, grid, batch)
        elif config.attention == "window_gather":
            costs += gather_block(config, stage, block, tokens, now)
        else:
            costs += spa_block(config, stage, block, tokens, now.tokens, mode.packing)
    if config.entry_stage == stage:
        costs.append(same_cost("backbone", "gate", tokens * channels, stage))
    ratio = sum(sum(one.tokens) for one in taken) / (len(taken) * tokens) if taken else None
    return StageCost(stage, tuple(costs), ratio)
