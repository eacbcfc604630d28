"""MACs of a Mask R-CNN or Faster R-CNN on a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sptcore.models.variants import AnyBackboneConfig
from sptcore.models.vit.config import STAGE, ViTConfig
from sptcore.profiling.macs.backbone import Counts, backbone_macs, stage_grids
from sptcore.profiling.macs.cost import Cost, same_cost
from sptcore.profiling.macs.vit import simple_pyramid_macs
from sptcore.tasks.detector import HEADS, HeadsConfig


@dataclass(frozen=True)
class DetectorShape:
    """What stands on the backbone: the heads, the number of categories without background, masks or boxes only."""

    heads: HeadsConfig = HEADS["standard"]
    categories: int = 80
    masks: bool = True


def detector_macs(
    config: AnyBackboneConfig,
    height: int,
    width: int,
    ratio: float | Sequence[float] = 1.0,
    batch: int = 1,
    *,
    shape: DetectorShape | None = None,
    counts: Counts | None = None,
    windows: Counts | None = None,
    packing: str | None = None,
    training: bool = False,
) -> list[Cost]:
    """MACs of a Mask R-CNN (without masks: Faster R-CNN) on `config`, backbone included, as a flat list.

    The image is padded to a multiple of 32 as in a batch. Regions are as many as the heads let through, for each image:
    1000 boxes and 100 masks with the standard heads, mmdetection's dummy forward and the paper's convention; so in
    `training` too, where heads sample fewer.
    """
    shape = shape or DetectorShape()
    heads, height, width = shape.heads, -(-height // 32) * 32, -(-width // 32) * 32
    stages = backbone_macs(
        config, height, width, ratio, batch, counts=counts, windows=windows, packing=packing, training=training
    )
    grids = stage_grids(height, width)
    entering = [int(level) for level in heads.levels]  # level "0" is the map of stage 1
    tokens = [grids[stage][0] * grids[stage][1] for stage in entering]
    channels = [config.channels[stage] for stage in entering]
    last = grids[entering[-1]]  # the pooled level takes every other cell of the last
    pooled = -(-last[0] // 2) * -(-last[1] // 2) if heads.pool_level else 0
    return [
        *(cost for stage in stages for cost in stage.costs),
        *(
            simple_pyramid_macs(config, grids[STAGE - 1], heads, batch)
            if isinstance(config, ViTConfig)
            else _pyramid(tokens, channels, heads, batch)
        ),
        *_proposals(sum(tokens) + pooled, heads, batch),
        *_box_head(heads, shape.categories, batch),
        *(_mask_head(heads, shape.categories, batch) if shape.masks else ()),
    ]


def _pyramid(tokens: Sequence[int], channels: Sequence[int], heads: HeadsConfig, batch: int) -> list[Cost]:
    width = heads.fpn_channels
    entry = sum(count * values for count, values in zip(tokens, channels, strict=True)) * width
    return [same_cost("fpn", "inner", batch * entry), same_cost("fpn", "layer", batch * sum(tokens) * 9 * width**2)]


def _proposals(cells: int, heads: HeadsConfig, batch: int) -> list[Cost]:
    width, anchors = heads.fpn_channels, len(heads.anchor_sizes[0]) * len(heads.aspect_ratios)
    return [
        same_cost("rpn", "conv", batch * cells * 9 * width**2),
        same_cost("rpn", "predictor", batch * cells * width * anchors * 5),  # a score and four offsets
    ]


def _box_head(heads: HeadsConfig, categories: int, batch: int) -> list[Cost]:
    regions, hidden = batch * heads.post_nms[1], heads.box_channels
    pooled = heads.fpn_channels * heads.box_size**2
    return [
        same_cost("box_head", "fc", regions * hidden * (pooled + hidden)),
        same_cost("box_head", "predictor", regions * hidden * 5 * (categories + 1)),
    ]


def _mask_head(heads: HeadsConfig, categories: int, batch: int) -> list[Cost]:
    """Convolutions, one doubling, one map a category; torchvision's predictor draws one more, for the background."""
    cells, last = batch * heads.detections * heads.mask_size**2, heads.mask_layers[-1]
    widths = [heads.fpn_channels, *heads.mask_layers]
    convs = sum(9 * before * after for before, after in pairwise(widths))
    predictor = 4 * cells * last
    return [
        same_cost("mask_head", "conv", cells * convs),
        same_cost("mask_head", "deconv", cells * 4 * last**2),
        Cost("mask_head", "predictor", predictor * (categories + 1), predictor * categories),
    ]
