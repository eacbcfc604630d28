"""What a model costs, by formula: multiply-accumulates of every part, without running it (Eq. 7 to 9 and their like).

Two figures stand side by side. `actual` is what this code runs: linear layers on real tokens only, the containers of
the packing in use. `eq9` is the paper's count: Swin's windows padded before the projections, and Eq. 9 for select and
pack attention (containers full, the output projection on every token). The paper's and mmdetection's "FLOPs" are these
MACs: 1 MAC = 2 FLOPs. Norms, activations, softmax, additions and data movement count nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sptcore.models.config import BackboneConfig
from sptcore.profiling.forced import selected_tokens
from sptcore.tasks.detector import HEADS, HeadsConfig

PATCH_VALUES = 4 * 4 * 3

Counts = Sequence[Sequence[int]]  # selected tokens: one row a selecting block in network order, one number an image


@dataclass(frozen=True)
class Cost:
    """MACs of one component at one place: `part` of the model, `stage` and `block` from 1 (0: outside of any)."""

    part: str
    component: str
    actual: int
    eq9: int
    stage: int = 0
    block: int = 0


@dataclass(frozen=True)
class StageCost:
    """MACs of one backbone stage, with the patch embedding or merging before it and the entry gate behind it.

    `select_ratio`: mean over its selecting blocks of selected / all tokens; None where no block selects.
    """

    stage: int
    costs: tuple[Cost, ...]
    select_ratio: float | None

    @property
    def macs(self) -> int:
        """What runs."""
        return sum(cost.actual for cost in self.costs)

    @property
    def macs_eq9(self) -> int:
        """The paper's count."""
        return sum(cost.eq9 for cost in self.costs)


def stage_grids(height: int, width: int) -> list[tuple[int, int]]:
    """The token grid (h, w) of each of the four stages for an image of height x width pixels: nested ceilings."""
    grids = [(-(-height // 4), -(-width // 4))]
    for _ in range(3):
        grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    return grids


def spa_places(config: BackboneConfig) -> list[tuple[int, int]]:
    """(stage, block), both from 1, of every selecting block in network order."""
    return [
        (stage, block)
        for stage, (depth, selecting) in enumerate(zip(config.depths, config.spa_blocks, strict=True), start=1)
        for block in range(depth - selecting + 1, depth + 1)
    ]


def uniform_counts(
    config: BackboneConfig, height: int, width: int, ratio: float | Sequence[float], batch: int = 1
) -> list[list[int]]:
    """The counts that a select ratio means: the same for every block, or one a selecting block in network order."""
    places, grids = spa_places(config), stage_grids(height, width)
    ratios = [ratio] * len(places) if isinstance(ratio, (int, float)) else list(ratio)
    if len(ratios) != len(places):
        raise ValueError(f"{len(ratios)} ratios for {len(places)} selecting blocks")
    tokens = [grids[stage - 1][0] * grids[stage - 1][1] for stage, _ in places]
    return [[selected_tokens(share, count)] * batch for share, count in zip(ratios, tokens, strict=True)]


def backbone_macs(
    config: BackboneConfig,
    height: int,
    width: int,
    ratio: float | Sequence[float] = 1.0,
    batch: int = 1,
    *,
    counts: Counts | None = None,
    packing: str | None = None,
) -> list[StageCost]:
    """MACs of a backbone for `batch` images of height x width, by stage.

    `ratio`: share of tokens every selecting block keeps, or one a block; `counts` instead gives the very numbers.
    `packing`: stream | aligned, by default the config's packing of evaluation. Raises ValueError for ratios or counts
    that do not fit the selecting blocks.
    """
    if counts is None:
        counts = uniform_counts(config, height, width, ratio, batch)
    if len(counts) != config.num_spa_blocks or any(len(row) != batch for row in counts):
        raise ValueError(f"counts must be {config.num_spa_blocks} rows of {batch}")
    left, stages = list(counts), []
    for stage, grid in enumerate(stage_grids(height, width), start=1):
        mine, left = left[: config.spa_blocks[stage - 1]], left[config.spa_blocks[stage - 1] :]
        stages.append(_stage(config, stage, grid, batch, mine, packing or config.eval_packing))
    return stages


def _stage(
    config: BackboneConfig, stage: int, grid: tuple[int, int], batch: int, counts: Counts, packing: str
) -> StageCost:
    channels, tokens = config.channels[stage - 1], batch * grid[0] * grid[1]
    way_in = ("patch_embed", PATCH_VALUES) if stage == 1 else ("merging", 2 * channels)  # 4C/2 values in, C out
    costs = [_same("backbone", way_in[0], tokens * way_in[1] * channels, stage)]
    dense = config.depths[stage - 1] - len(counts)
    for block in range(1, config.depths[stage - 1] + 1):
        if block <= dense:
            costs += _window_block(config, stage, block, grid, batch)
        else:
            costs += _spa_block(config, stage, block, tokens, counts[block - dense - 1], packing)
    if config.entry_stage == stage:
        costs.append(_same("backbone", "gate", tokens * channels, stage))
    ratio = sum(map(sum, counts)) / (len(counts) * tokens) if counts else None
    return StageCost(stage, tuple(costs), ratio)


def _same(part: str, component: str, macs: int, stage: int = 0, block: int = 0) -> Cost:
    """A component that both conventions count alike."""
    return Cost(part, component, macs, macs, stage, block)


def _window_block(config: BackboneConfig, stage: int, block: int, grid: tuple[int, int], batch: int) -> list[Cost]:
    """Shifted window attention. Ours projects real tokens and one pad row an image; the paper's, all pad cells."""
    channels, length = config.channels[stage - 1], config.window_size**2
    tokens = grid[0] * grid[1]
    padded = length * (-(-grid[0] // config.window_size)) * (-(-grid[1] // config.window_size))
    rows = tokens + (padded > tokens)
    place = (stage, block)
    return [
        Cost("backbone", "qkv", batch * rows * 3 * channels**2, batch * padded * 3 * channels**2, *place),
        _same("backbone", "attention", batch * padded * 2 * length * channels, *place),
        Cost("backbone", "proj", batch * tokens * channels**2, batch * padded * channels**2, *place),
        _same("backbone", "ffn", _ffn(config, channels, batch * tokens), *place),
    ]


def _spa_block(
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
        _same("backbone", "gate", tokens * channels if config.uses_gates else 0, *place),
        Cost("backbone", "qkv", selected * 3 * channels**2, stream * length * 3 * channels**2, *place),
        Cost("backbone", "attention", containers * core, stream * core, *place),
        Cost("backbone", "proj", projected * channels**2, tokens * channels**2, *place),
        _same("backbone", "ffn", _ffn(config, channels, selected if skips else tokens), *place),
    ]


def _ffn(config: BackboneConfig, channels: int, rows: int) -> int:
    return rows * 2 * channels * int(channels * config.mlp_ratio)


@dataclass(frozen=True)
class DetectorShape:
    """What stands on the backbone: the heads, the number of categories without background, masks or boxes only."""

    heads: HeadsConfig = HEADS["standard"]
    categories: int = 80
    masks: bool = True


def detector_macs(
    config: BackboneConfig,
    height: int,
    width: int,
    ratio: float | Sequence[float] = 1.0,
    batch: int = 1,
    *,
    shape: DetectorShape | None = None,
    counts: Counts | None = None,
    packing: str | None = None,
) -> list[Cost]:
    """MACs of a Mask R-CNN (without masks: Faster R-CNN) on `config`, backbone included, as a flat list.

    The image is padded to a multiple of 32 as in a batch. Regions are as many as the heads let through, for each image:
    1000 boxes and 100 masks with the standard heads, mmdetection's dummy forward and the paper's convention.
    """
    shape = shape or DetectorShape()
    heads, height, width = shape.heads, -(-height // 32) * 32, -(-width // 32) * 32
    stages = backbone_macs(config, height, width, ratio, batch, counts=counts, packing=packing)
    grids = stage_grids(height, width)
    entering = [int(level) for level in heads.levels]  # level "0" is the map of stage 1
    tokens = [grids[stage][0] * grids[stage][1] for stage in entering]
    channels = [config.channels[stage] for stage in entering]
    last = grids[entering[-1]]  # the pooled level takes every other cell of the last
    pooled = -(-last[0] // 2) * -(-last[1] // 2) if heads.pool_level else 0
    return [
        *(cost for stage in stages for cost in stage.costs),
        *_pyramid(tokens, channels, heads, batch),
        *_proposals(sum(tokens) + pooled, heads, batch),
        *_box_head(heads, shape.categories, batch),
        *(_mask_head(heads, shape.categories, batch) if shape.masks else ()),
    ]


def _pyramid(tokens: Sequence[int], channels: Sequence[int], heads: HeadsConfig, batch: int) -> list[Cost]:
    width = heads.fpn_channels
    entry = sum(count * values for count, values in zip(tokens, channels, strict=True)) * width
    return [_same("fpn", "inner", batch * entry), _same("fpn", "layer", batch * sum(tokens) * 9 * width**2)]


def _proposals(cells: int, heads: HeadsConfig, batch: int) -> list[Cost]:
    width, anchors = heads.fpn_channels, len(heads.anchor_sizes[0]) * len(heads.aspect_ratios)
    return [
        _same("rpn", "conv", batch * cells * 9 * width**2),
        _same("rpn", "predictor", batch * cells * width * anchors * 5),  # a score and four offsets
    ]


def _box_head(heads: HeadsConfig, categories: int, batch: int) -> list[Cost]:
    regions, hidden = batch * heads.post_nms[1], heads.box_channels
    pooled = heads.fpn_channels * heads.box_size**2
    return [
        _same("box_head", "fc", regions * hidden * (pooled + hidden)),
        _same("box_head", "predictor", regions * hidden * 5 * (categories + 1)),
    ]


def _mask_head(heads: HeadsConfig, categories: int, batch: int) -> list[Cost]:
    """Convolutions, one doubling, one map a category; torchvision's predictor draws one more, for the background."""
    cells, last = batch * heads.detections * heads.mask_size**2, heads.mask_layers[-1]
    widths = [heads.fpn_channels, *heads.mask_layers]
    convs = sum(9 * before * after for before, after in pairwise(widths))
    predictor = 4 * cells * last
    return [
        _same("mask_head", "conv", cells * convs),
        _same("mask_head", "deconv", cells * 4 * last**2),
        Cost("mask_head", "predictor", predictor * (categories + 1), predictor * categories),
    ]


GROUPINGS: dict[str, Callable[[Cost], str]] = {
    "part": lambda cost: cost.part,
    "stage": lambda cost: f"stage {cost.stage}" if cost.stage else cost.part,
    "block": lambda cost: _block_name(cost),
    "component": lambda cost: cost.component if cost.part == "backbone" else f"{cost.part}.{cost.component}",
}


def _block_name(cost: Cost) -> str:
    if not cost.stage:
        return cost.part
    return f"{cost.stage}.{cost.block}" if cost.block else f"{cost.stage}.{cost.component}"


def group_costs(costs: Iterable[Cost], by: str) -> dict[str, tuple[int, int]]:
    """(actual, eq9) MACs summed by one of GROUPINGS, in the order of first appearance."""
    name_of, sums = GROUPINGS[by], {}
    for cost in costs:
        actual, eq9 = sums.get(name_of(cost), (0, 0))
        sums[name_of(cost)] = (actual + cost.actual, eq9 + cost.eq9)
    return sums


def total(costs: Iterable[Cost | StageCost]) -> tuple[int, int]:
    """(actual, eq9) MACs of everything in `costs`."""
    actual = eq9 = 0
    for cost in costs:
        actual += cost.actual if isinstance(cost, Cost) else cost.macs
        eq9 += cost.eq9 if isinstance(cost, Cost) else cost.macs_eq9
    return actual, eq9
