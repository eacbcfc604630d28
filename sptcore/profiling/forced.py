"""Selections of a stated size, for costs that must not depend on what some weights happen to select."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from sptcore.models.block import Block
from sptcore.models.config import BackboneConfig
from sptcore.models.selectors import Selector, TokenContext
from sptcore.models.variants import AnyBackbone
from sptcore.models.vit.model import ViT
from sptcore.ops.selection import Selection
from sptcore.ops.windows import window_order


def selected_tokens(ratio: float, tokens: int) -> int:
    """How many of `tokens` a select ratio means: the nearest whole number, halves upward."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"a select ratio lies between 0 and 1, not {ratio}")
    return int(ratio * tokens + 0.5)


def blob_masks(batch: int, grid: tuple[int, int], ratio: float | Sequence[float], generator: torch.Generator) -> Tensor:
    """Random masks in blobs, as objects are, bool (batch, h, w): exactly `selected_tokens(ratio, h * w)` in each image.

    `ratio` may be one number an image. Smooth noise, about six bumps along the longer side, cut at the wanted count.
    """
    ratios = [ratio] * batch if isinstance(ratio, (int, float)) else list(ratio)
    if len(ratios) != batch:
        raise ValueError(f"{len(ratios)} ratios for a batch of {batch}")
    height, width = grid
    coarse = [max(2, round(6 * side / max(grid))) + 1 for side in grid]
    noise = torch.randn(batch, 1, *coarse, generator=generator)
    field = functional.interpolate(noise, size=grid, mode="bicubic", align_corners=True).flatten(1)
    masks = torch.zeros(batch, height * width, dtype=torch.bool)
    for image, share in enumerate(ratios):
        kept = field[image].topk(selected_tokens(share, height * width)).indices
        masks[image, kept] = True
    return masks.view(batch, height, width)


def shift_of(config: BackboneConfig, block: int) -> int:
    """The shift of the windows of `block`, from 1 within its stage: half a window in every second."""
    return 0 if block % 2 else config.window_size // 2


def window_masks(
    batch: int, grid: tuple[int, int], ratio: float, generator: torch.Generator, *, window_size: int, shift_size: int
) -> Tensor:
    """As `blob_masks`, of whole windows: `selected_tokens(ratio, windows)` of the shifted grid in each image."""
    order = window_order(*grid, window_size=window_size, shift_size=shift_size, device=torch.device("cpu"))
    blobs = (-(-grid[0] // window_size), -(-grid[1] // window_size))
    windows = blob_masks(batch, blobs, ratio, generator).flatten(1)
    return windows[:, order.positions // window_size**2].view(batch, *grid)


def active_windows(mask: Tensor, *, window_size: int, shift_size: int) -> list[int]:
    """In how many windows of the shifted grid a token of `mask` (B, h, w) lies, for each image."""
    order = window_order(*mask.shape[1:], window_size=window_size, shift_size=shift_size, device=mask.device)
    cells = functional.pad(mask.flatten(1), (0, 1))[:, order.cells]
    return cells.view(len(mask), order.num_windows, -1).any(-1).sum(1).tolist()


def selecting_blocks(backbone: AnyBackbone) -> list[Block]:
    """The blocks of a backbone that select, in network order."""
    return [block for block in backbone.modules() if isinstance(block, Block) and block.selector is not None]


class ForcedSelector(Selector):
    """Runs the selector it stands in for, gate and all, then selects `mask` (B, H, W) whatever the scores were.

    One that selects by labels is given the mask as these.
    """

    def __init__(self, inner: Selector, mask: Tensor) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.gate = inner.gate
        self.mask = mask

    def choose(self, x: Tensor, own: Tensor | None, context: TokenContext) -> Selection:
        selection: Selection = self.inner.choose(x, own, replace(context, select_label=self.mask))
        weight = (self.mask & context.valid).to(selection.weight.dtype)
        return replace(selection, weight=weight + (selection.weight - selection.weight.detach()))


@contextmanager
def forced_selection(backbone: AnyBackbone, masks: Sequence[Tensor]) -> Iterator[None]:
    """Within it, the selecting blocks of `backbone` select `masks`, one bool (B, h, w) a block in network order.

    Gates still run and still carry gradient, so the cost is that of a model which chose these masks itself. Raises
    ValueError when the masks are not one a block.
    """
    if len(masks) != backbone.config.num_spa_blocks:
        raise ValueError(f"{len(masks)} masks for {backbone.config.num_spa_blocks} selecting blocks")
    with _forced_plain(backbone, masks) if isinstance(backbone, ViT) else _forced_blocks(backbone, masks):
        yield


@contextmanager
def _forced_plain(backbone: ViT, masks: Sequence[Tensor]) -> Iterator[None]:
    """Labels for a ViT that selects by them. Raises ValueError for one whose keep rate sets the number of tokens."""
    if backbone.config.prunes:
        raise ValueError("the keep rate of a pruned ViT sets how many tokens stay")
    before, backbone.forced = backbone.forced, masks
    try:
        yield
    finally:
        backbone.forced = before


@contextmanager
def _forced_blocks(backbone: AnyBackbone, masks: Sequence[Tensor]) -> Iterator[None]:
    blocks = selecting_blocks(backbone)
    originals = [block.selector for block in blocks]
    try:
        for block, original, mask in zip(blocks, originals, masks, strict=True):
            assert isinstance(original, Selector)
            block.selector = ForcedSelector(original, mask)
        yield
    finally:
        for block, original in zip(blocks, originals, strict=True):
            block.selector = original


@torch.no_grad()
def randomise_biases(model: nn.Module, generator: torch.Generator, std: float = 0.02) -> None:
    """Give every all-zero bias of `model` small random values.

    With all biases zero, window padding makes attention outputs denormal numbers, and a matrix product over them runs
    ten times slower on a CPU: a freshly initialised Swin would lose every race for a reason no trained one has.
    """
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "bias" and not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
