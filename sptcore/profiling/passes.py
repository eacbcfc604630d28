"""What is timed: a backbone, a whole detector with a fixed number of regions, and a training step of either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sptcore.models.variants import AnyBackbone
from sptcore.profiling.forced import forced_selection
from sptcore.profiling.macs import DetectorShape

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Pass = Callable[[], object]


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """Autocast to the dtype called `amp` (bf16 | fp16), or nothing for "off"."""
    return nullcontext() if amp == "off" else torch.autocast(device.type, AMP_DTYPES[amp])


def random_regions(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """`count` boxes (count, 4) x1 y1 x2 y2 inside height x width, sides of a sixteenth of the image to all of it."""
    frame = torch.tensor([width, height], dtype=torch.float32)
    side = frame * 16 ** -torch.rand(count, 2, generator=generator)
    corner = (frame - side) * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + side], dim=1)


def detector_outputs(detector: nn.Module, shape: DetectorShape, images: Tensor, regions: Tensor) -> list[Tensor]:
    """One pass through every layer of a detector of `sptcore.tasks.detector` on a stated number of regions.

    Proposals and their suppression are left out, since what untrained weights propose varies: the heads get the first
    of `regions` (N, 4) instead, as many as they let through (1000 and 100 with the standard heads), in every image.
    """
    parts: Any = detector
    frames = [(images.shape[-2], images.shape[-1])] * len(images)
    levels, _ = parts.backbone(images, torch.tensor(frames, device=images.device), None)
    scores, offsets = parts.rpn.head(list(levels.values()))
    roi = parts.roi_heads
    boxes = [regions[: shape.heads.post_nms[1]]] * len(images)
    outputs = [*scores, *offsets, *roi.box_predictor(roi.box_head(roi.box_roi_pool(levels, boxes, frames)))]
    if shape.masks:
        boxes = [regions[: shape.heads.detections]] * len(images)
        outputs.append(roi.mask_predictor(roi.mask_head(roi.mask_roi_pool(levels, boxes, frames))))
    return outputs


def inference_pass(
    backbone: AnyBackbone, masks: Sequence[Tensor] | None, forward: Callable[[], list[Tensor]], amp: str
) -> Pass:
    """A call that runs `forward` without gradients, in evaluation mode, selecting `masks` where given."""
    device = next(backbone.parameters()).device

    def run() -> None:
        with torch.inference_mode(), autocast(device, amp), selecting(backbone, masks):
            forward()

    return run


def training_pass(
    model: nn.Module,
    backbone: AnyBackbone,
    masks: Sequence[Tensor] | None,
    forward: Callable[[], list[Tensor]],
    amp: str,
) -> Pass:
    """A call that runs `forward` in training mode and carries the mean of its outputs back to every parameter."""
    device = next(backbone.parameters()).device

    def run() -> None:
        model.train()
        try:
            with selecting(backbone, masks):  # also backward, where blocks may be computed again
                with autocast(device, amp):
                    loss = torch.stack([output.float().mean() for output in forward()]).sum()
                loss.backward()
        finally:
            model.zero_grad(set_to_none=True)
            model.eval()

    return run


@contextmanager
def standing_in(model: nn.Module, part: nn.Module, other: nn.Module) -> Iterator[None]:
    """Within it, `other` stands wherever `part` is a child of a module of `model`."""
    places = [(one, name) for one in model.modules() for name, child in one.named_children() if child is part]
    try:
        for place, name in places:
            setattr(place, name, other)
        yield
    finally:
        for place, name in places:
            setattr(place, name, part)


def selecting(backbone: AnyBackbone, masks: Sequence[Tensor] | None) -> AbstractContextManager[None]:
    """`forced_selection` of `masks`, or nothing where there are none."""
    return nullcontext() if masks is None else forced_selection(backbone, masks)
