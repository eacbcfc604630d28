"""The hierarchical backbone of four stages: Swin, or with SPA blocks at its end the Select and Pack Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sptcore.models.attention import ATTENTIONS
from sptcore.models.block import Block
from sptcore.models.config import STRIDES, BackboneConfig
from sptcore.models.dynamic import DynamicBlock, ratio_loss
from sptcore.models.layers import Gate, PatchEmbed, PatchMerging, init_weights
from sptcore.models.selectors import SELECTORS, TokenContext
from sptcore.ops.packing import Packing
from sptcore.ops.selection import Selection, coarsen, gumbel_select

__all__ = ["BackboneConfig", "Features", "HierarchicalBackbone", "PlacedSelection"]


@dataclass(frozen=True, eq=False)
class PlacedSelection:
    """A Selection and where it was made: `stage` 1..4, `block` within the stage, `stride` of the grid in pixels.

    The entry map s0 is read on a stage's output: its `block` is -1 and its `packing` None.
    """

    selection: Selection
    stage: int
    block: int
    stride: int
    packing: Packing | None = None

    @property
    def padding_fraction(self) -> float:
        """1 - P / (B' L) of the block's containers."""
        return 0.0 if self.packing is None else self.packing.padding_fraction


@dataclass(frozen=True, eq=False)
class Features:
    """What a backbone returns: normed maps (B, C, H, W) under "0".."3", and every selection in block order.

    `entry` is s0, the score map read before the first SPA stage (Eq. 1); it is supervised but selects nothing itself.
    `losses`: terms of the backbone's own, weighted already. `pooled` (B, C): the image vector of a backbone that has
    one of its own (a class token).
    """

    maps: dict[str, Tensor]
    selections: tuple[PlacedSelection, ...] = ()
    entry: PlacedSelection | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    pooled: Tensor | None = None


@dataclass
class _Trail:
    """What one forward pass carries from stage to stage: validity, labels, and the score handed to the next stage."""

    sizes: Tensor | None
    labels: dict[int, Tensor] | None
    prior: Tensor | None = None
    selections: list[PlacedSelection] = field(default_factory=list)
    entry: PlacedSelection | None = None

    def context(self, x: Tensor, stride: int) -> TokenContext:
        """The context of a stage's blocks on the grid of `x` (B, H, W, C)."""
        label = None if self.labels is None else self.labels.get(stride)
        if label is not None and label.shape != x.shape[:3]:
            raise ValueError(
                f"select_labels[{stride}] is {tuple(label.shape)}, the grid of that stride is {tuple(x.shape[:3])}"
            )
        return TokenContext(valid_tokens(x, self.sizes, stride), self.prior, label)


class Stage(nn.Module):
    """Blocks at one resolution, after the merging that leads to it."""

    def __init__(self, config: BackboneConfig, number: int) -> None:
        super().__init__()
        dim = config.channels[number - 1]
        self.number = number
        self.stride = STRIDES[number - 1]
        self.downsample = PatchMerging(dim // 2) if number > 1 else None
        self.blocks = nn.ModuleList(_build_block(config, number, index) for index in range(config.depths[number - 1]))

    def forward(self, x: Tensor, trail: _Trail) -> Tensor:
        x = x if self.downsample is None else self.downsample(x)
        context = trail.context(x, self.stride)
        last = None
        for index, block in enumerate(self.blocks):
            output = block(x, context)
            x = output.tokens
            if output.selection is not None:
                last = output.selection
                trail.selections.append(PlacedSelection(last, self.number, index, self.stride, output.packing))
        trail.prior = None if last is None or not last.gated else last.logits  # Eq. 2 and 3: the last block's score
        return x


class HierarchicalBackbone(nn.Module):
    """Four stages of blocks over a pyramid of token grids, any input size."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.stages = nn.ModuleList(Stage(config, number) for number in range(1, 5))
        needed = sorted({*config.out_stages, *filter(None, [config.entry_stage])})
        self.norms = nn.ModuleDict({str(stage - 1): nn.LayerNorm(config.channels[stage - 1]) for stage in needed})
        entry = config.entry_stage
        self.gate = None if entry is None else Gate(config.channels[entry - 1], config.gate_bias_init)
        self.apply(init_weights)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the returned maps, in the order of their keys."""
        return tuple(self.config.channels[stage - 1] for stage in self.config.out_stages)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the returned maps, in the order of their keys."""
        return tuple(STRIDES[stage - 1] for stage in self.config.out_stages)

    def forward(
        self,
        images: Tensor,
        image_sizes: Tensor | None = None,
        select_labels: dict[int, Tensor] | None = None,
    ) -> Features:
        """Normalised `images` (B, 3, H, W) -> Features.

        `image_sizes` (B, 2) int [height, width]: the part of each image that is not batch padding, by default all.
        `select_labels`: bool grids (B, ceil(H/s), ceil(W/s)) by stride s, needed by ground-truth selection only.
        """
        trail = _Trail(image_sizes, select_labels)
        x = self.patch_embed(images)
        maps: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x, trail)
            self._leave(number, x, trail, maps)
        return Features(maps, tuple(trail.selections), trail.entry, self._losses(trail))

    def _losses(self, trail: _Trail) -> dict[str, Tensor]:
        """What the backbone itself has to lose: in training, how far its predictors are from their ratios."""
        if not self.training or not self.config.predictor_blocks:
            return {}
        decisions = [placed.selection for placed in trail.selections]
        return {"loss_ratio": ratio_loss(decisions, self.config.keep_ratios)}

    def _leave(self, number: int, x: Tensor, trail: _Trail, maps: dict[str, Tensor]) -> None:
        """Norm the output of stage `number`, read s0 on it where that is due, hand the scores to the next grid."""
        key = str(number - 1)
        valid = valid_tokens(x, trail.sizes, STRIDES[number - 1])
        if key in self.norms:
            normed = self.norms[key](x)
            if self.gate is not None and number == self.config.entry_stage:
                trail.entry = self._enter(self.gate(normed), valid, number)
                trail.prior = trail.entry.selection.logits
            if number in self.config.out_stages:
                maps[key] = normed.permute(0, 3, 1, 2)
        if trail.prior is not None:
            trail.prior = coarsen(trail.prior, valid) if self.config.score_propagation else None

    def _enter(self, logits: Tensor, valid: Tensor, number: int) -> PlacedSelection:
        """The score map s0, read on the normed output of stage `number`, before the first SPA stage (Eq. 1)."""
        threshold = self.config.select_threshold
        weight = gumbel_select(logits.detach(), valid, threshold=threshold, noise="none")
        selection = Selection(logits, weight, valid, logits, threshold=threshold)
        return PlacedSelection(selection, number, -1, STRIDES[number - 1])


def valid_tokens(x: Tensor, image_sizes: Tensor | None, stride: int) -> Tensor:
    """(B, H, W) bool of the grid `x` (B, H, W, C): a token is valid where any of its pixels lies in the image."""
    batch, height, width = x.shape[:3]
    if image_sizes is None:
        return torch.ones(batch, height, width, dtype=torch.bool, device=x.device)
    tokens = (image_sizes.to(x.device) + stride - 1).div(stride, rounding_mode="floor")
    rows = torch.arange(height, device=x.device) < tokens[:, :1]
    columns = torch.arange(width, device=x.device) < tokens[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def _build_block(config: BackboneConfig, stage: int, index: int) -> Block:
    """Block `index` of stage 1..4: SPT, Swin and the baselines differ in these three arguments only."""
    dim = config.channels[stage - 1]
    shift_size = config.window_size // 2 if index % 2 else 0
    selects = (stage, index) in config.select_places
    attention = ATTENTIONS["deformable" if config.deforms(stage, index) else config.attention if selects else "window"]
    place = sum(config.depths[: stage - 1]) + index
    own = config
    if selects and config.keep_ratios:
        own = replace(config, select_ratio=config.keep_ratios[config.select_places.index((stage, index))])
    return (DynamicBlock if config.is_dynamic(stage, index) else Block)(
        dim,
        selector=SELECTORS[config.selector](dim, own, shift_size) if selects else None,
        attention=attention(dim, config.num_heads[stage - 1], shift_size, config),
        bypass="skip_block" if config.ffn == "selected" else config.bypass,
        mlp_ratio=config.mlp_ratio,
        drop_path=config.drop_path * place / max(1, sum(config.depths) - 1),
    )
