"""Mixup and CutMix: images of a batch blended in pairs, with their classes and their selection labels.

Image i is paired with image B - 1 - i, and a whole batch is mixed alike, as in Swin's recipe. Draws follow from the
seed and the number of the forward pass in the run, so that a run goes on after a stop as if there had been none.

Selection labels: under mixup a cell is 1 where it is in either image, y = max(y1, y2). Under CutMix a cell of which
every pixel was pasted takes the pasted image's label, and one that was pasted in part holds pixels of both and is 1
where it is in either: what is labelled is never less than what the mixed image shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sptcore.tasks.base import Batch
from sptcore.training.config import TrainConfig

_MIX = 4  # the stream of these draws, beside those of the sampler
_CUT_OF_BOTH = 0.5

Rectangle = tuple[int, int, int, int]
"""y1, x1, y2, x2 in pixels of the frame, half-open."""


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed: `share` of the image itself, by `rectangle` (CutMix) or, where None, pixel by pixel."""

    share: float
    rectangle: Rectangle | None = None


def mixed(batch: Batch, config: TrainConfig, number: int, device: torch.device | None = None) -> Batch:
    """The batch of forward pass `number` as it is learned: mixed where the settings say so, else untouched.

    It goes to `device` in between: what is drawn depends on targets, which are read while they are on the host.
    """
    mix = None
    if (config.mixup or config.cutmix) and batch.targets and "classes" in batch.targets[0]:
        mix = draw_mix(config, _extent(batch), np.random.default_rng((_MIX, config.seed, number)))
    batch = batch if device is None else batch.to(device)
    return batch if mix is None else apply_mix(batch, mix)


def draw_mix(config: TrainConfig, extent: tuple[int, int], generator: np.random.Generator) -> Mix | None:
    """One batch's mixture; None for a batch that stays as it is. `extent`: (height, width) images lie in."""
    if generator.random() >= config.mix_prob:
        return None
    both = config.mixup > 0 and config.cutmix > 0
    cut = generator.random() < _CUT_OF_BOTH if both else config.cutmix > 0
    alpha = config.cutmix if cut else config.mixup
    share = float(generator.beta(alpha, alpha))
    if not cut:
        return Mix(share)
    height, width = extent
    side = math.sqrt(1 - share)
    y1, y2 = _span(height, side, generator)
    x1, x2 = _span(width, side, generator)
    return Mix(1 - (y2 - y1) * (x2 - x1) / (height * width), (y1, x1, y2, x2))


def apply_mix(batch: Batch, mix: Mix) -> Batch:
    """The batch with every image mixed with its partner; images become float32 where they are blended."""
    if mix.rectangle is None:
        images = mix.share * batch.images.float() + (1 - mix.share) * batch.images.flip(0).float()
    else:
        y1, x1, y2, x2 = mix.rectangle
        images = batch.images.clone()
        images[:, :, y1:y2, x1:x2] = batch.images.flip(0)[:, :, y1:y2, x1:x2]
    grids = batch.select_labels
    if grids is not None:
        grids = {stride: _mixed_grid(grid, stride, mix.rectangle) for stride, grid in grids.items()}
    classes = [target["classes"] for target in batch.targets]
    targets = [
        {**target, "classes": mix.share * own + (1 - mix.share) * other}
        for target, own, other in zip(batch.targets, classes, reversed(classes), strict=True)
    ]
    sizes = torch.maximum(batch.image_sizes, batch.image_sizes.flip(0))
    return replace(batch, images=images, image_sizes=sizes, targets=targets, select_labels=grids)


def _mixed_grid(grid: Tensor, stride: int, rectangle: Rectangle | None) -> Tensor:
    other = grid.flip(0)
    if rectangle is None:
        return grid | other
    y1, x1, y2, x2 = rectangle
    result = grid.clone()
    if y1 < y2 and x1 < x2:
        touched = slice(y1 // stride, -(-y2 // stride)), slice(x1 // stride, -(-x2 // stride))
        result[:, *touched] |= other[:, *touched]
        inside = slice(-(-y1 // stride), y2 // stride), slice(-(-x1 // stride), x2 // stride)
        result[:, *inside] = other[:, *inside]
    return result


def _span(length: int, share: float, generator: np.random.Generator) -> tuple[int, int]:
    """A stretch of `share` of `length` around a drawn centre, cut off at the ends."""
    centre, half = int(generator.integers(0, length)), int(length * share) // 2
    return max(0, centre - half), min(length, centre + half)


def _extent(batch: Batch) -> tuple[int, int]:
    """Height and width in which every image of the batch has pixels of its own, canvas and padding left out."""
    height, width = torch.stack([target["extent"] for target in batch.targets]).amin(0).tolist()
    return height, width
