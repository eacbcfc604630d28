"""Comparing an exported file with the model it came from, on images that select differently."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sptcore.data.images import find_image, read_image
from sptcore.data.locate import open_index
from sptcore.export.graphs import DIVISOR
from sptcore.models.backbone import Features
from sptcore.models.bodies import find_backbone
from sptcore.runs.models import LoadedModel

SAMPLES = 3


@dataclass(frozen=True)
class Comparison:
    """One input: what it is, the share of tokens the model selects in it (None: it selects none), and how far each
    output lies from the model's at most; inf where its shape is another.
    """

    images: str
    select_ratio: float | None
    differences: dict[str, float]

    @property
    def largest(self) -> float:
        """The largest difference over all outputs."""
        return max(self.differences.values())


def check_inputs(shape: tuple[int, int, int, int]) -> Iterator[tuple[str, Tensor]]:
    """Named batches (B, 3, H, W) uint8: images of the sample filling the frame, one in a dark frame, and noise."""
    batch, _, height, width = shape
    index = open_index("sample", "val")
    needed = SAMPLES + batch
    frames = [
        cv2.resize(read_image(find_image(index.image_root, record.file_name)), (width, height))
        for record in index.records[:needed]
    ]
    for number in range(SAMPLES):
        chosen = [frames[(number + offset) % len(frames)] for offset in range(batch)]
        yield f"sample {number + 1}", _as_batch(chosen)
    corner = np.zeros_like(frames[0])
    half = (max(1, width // 2), max(1, height // 2))
    corner[: half[1], : half[0]] = cv2.resize(frames[0], half)
    yield "sample in the dark", _as_batch([corner] * batch)
    generator = torch.Generator().manual_seed(0)
    yield "noise", torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _as_batch(frames: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())


def run_eager(loaded: LoadedModel, images: Tensor, scope: str) -> tuple[dict[str, Tensor], float | None]:
    """What the model itself makes of frames (B, 3, H, W) uint8, under the names of `build_graph`, and its select ratio.

    By the road of evaluation: padded to whole multiples of 32, sizes beside.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % DIVISOR, 0, -height % DIVISOR))
    with torch.inference_mode():
        output = loaded.model(padded, torch.tensor([[height, width]] * len(images)))
    features: Features = output.features
    if scope == "backbone":
        strides = find_backbone(loaded.model).strides
        found = {f"map_stride{stride}": one for stride, one in zip(strides, features.maps.values(), strict=True)}
    elif loaded.spec.task == "detect":
        found = _detections(output.detections[0], [category_id for category_id, _ in loaded.spec.categories])
    else:
        found = {"logits": output.logits}
    return found, _select_ratio(features)


def _detections(detection: dict[str, Tensor], category_ids: list[int]) -> dict[str, Tensor]:
    found = {"boxes": detection["boxes"], "scores": detection["scores"]}
    found["classes"] = torch.tensor(category_ids)[detection["labels"] - 1]
    if "masks" in detection:
        found["masks"] = detection["masks"].squeeze(1)
    return found


def _select_ratio(features: Features) -> float | None:
    """Selected / valid tokens of all blocks that select."""
    selections = [placed.selection for placed in features.selections]
    if not selections:
        return None
    return float(sum(one.mask.sum() for one in selections) / sum(one.valid.sum() for one in selections))


def differences(wanted: dict[str, Tensor], got: dict[str, Tensor]) -> dict[str, float]:
    """How far each output lies from what was wanted at most; inf for another shape and for what is not finite.

    Detections are compared with the nearest of their class, whatever the order of equal scores.
    """
    if "boxes" in wanted:
        if len(wanted["boxes"]) != len(got["boxes"]):
            return dict.fromkeys(wanted, math.inf)
        partner = _partners(wanted, got)
        got = {name: value[partner] for name, value in got.items()}
    return {name: _largest(value, got[name]) for name, value in wanted.items()}


def _partners(wanted: dict[str, Tensor], got: dict[str, Tensor]) -> Tensor:
    """(N,) int64: of each wanted detection the one found nearest to it among those of its class not taken yet."""
    apart = (wanted["boxes"][:, None] - got["boxes"][None]).abs().amax(2)
    apart = apart.masked_fill(wanted["classes"][:, None] != got["classes"][None], math.inf)
    partner = torch.zeros(len(apart), dtype=torch.int64)
    for number in range(len(apart)):
        partner[number] = apart[number].argmin()
        apart[:, partner[number]] = math.inf
    return partner


def _largest(wanted: Tensor, got: Tensor) -> float:
    if wanted.shape != got.shape or not torch.isfinite(got).all():
        return math.inf
    return float((wanted.double() - got.double()).abs().max()) if wanted.numel() else 0.0
