"""The detector: torchvision's Mask R-CNN, or Faster R-CNN, around a selecting backbone with a feature pyramid.

Where torchvision and mmdetection differ: proposals in training (1000) and the sampling ratio of
RoIAlign (0) follow mmdetection; smooth L1 with beta 1/9 (mmdetection: L1) and unaligned RoIAlign stay torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from sptcore.models.backbone import Features
from sptcore.models.variants import AnyBackbone
from sptcore.tasks.pixels import Normalise
from sptcore.tasks.simple_pyramid import SimplePyramid


@dataclass(frozen=True)
class HeadsConfig:
    """Pyramid and heads. `levels`: backbone maps that enter; `pool_level` adds one of twice the last stride."""

    levels: tuple[str, ...] = ("0", "1", "2", "3")
    pool_level: bool = True
    fpn_channels: int = 256
    anchor_sizes: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    box_size: int = 7
    box_channels: int = 1024
    mask_size: int = 14
    mask_layers: tuple[int, ...] = (256, 256, 256, 256)
    canonical_scale: int = 224
    canonical_level: int = 4
    sampling_ratio: int = 0
    pre_nms: tuple[int, int] = (2000, 1000)
    post_nms: tuple[int, int] = (1000, 1000)
    rpn_samples: int = 256
    box_samples: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadsConfig:
        """The inverse of `to_dict`, lists as tuples. Raises TypeError for an unknown key."""
        return cls(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


HEADS: dict[str, HeadsConfig] = {
    "standard": HeadsConfig(),
    "small": HeadsConfig(
        levels=("1", "2", "3"),
        pool_level=False,
        fpn_channels=48,
        anchor_sizes=((12, 20), (28, 40), (56, 80)),
        box_size=5,
        box_channels=96,
        mask_layers=(48, 48),
        canonical_scale=64,
        sampling_ratio=2,
        pre_nms=(400, 200),
        post_nms=(200, 100),
        rpn_samples=128,
        box_samples=64,
    ),
}


@dataclass(frozen=True, eq=False)
class DetectorOutput:
    """What a forward pass returns in every mode: losses (training), detections (evaluation), backbone features."""

    losses: dict[str, Tensor]
    detections: list[dict[str, Tensor]]
    features: Features


class Anchors(AnchorGenerator):
    """Anchors in float32 whatever the features are in: bfloat16 would move those beyond 256 pixels by whole pixels."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors (A, 4) of each image."""
        grids = [features.new_empty(features.shape[-2:], dtype=torch.float32) for features in feature_maps]
        return super().forward(image_list, grids)


class RoIAlign(MultiScaleRoIAlign):
    """Pooling from levels of known strides.

    torchvision infers the strides from the first batch it meets and keeps them; padding makes that guess wrong for
    small images, and a resumed run would guess from another batch.
    """

    def __init__(self, heads: HeadsConfig, size: int) -> None:
        super().__init__(
            list(heads.levels),
            size,
            heads.sampling_ratio,
            canonical_scale=heads.canonical_scale,
            canonical_level=heads.canonical_level,
        )
        exponents = [2 + int(level) for level in heads.levels]  # strides 4, 8, 16, 32 are 2 ** 2 ... 2 ** 5
        self.scales = [2.0**-exponent for exponent in exponents]
        self.map_levels = LevelMapper(exponents[0], exponents[-1], heads.canonical_scale, heads.canonical_level)


class PyramidBackbone(nn.Module):
    """Backbone and feature pyramid as torchvision's detectors want them: one number of channels on every level.

    `entering`: the backbone's maps that the pyramid reads; of a plain ViT there is only one.
    """

    def __init__(self, body: AnyBackbone, heads: HeadsConfig) -> None:
        super().__init__()
        self.body = body
        self.levels = heads.levels
        self.out_channels = heads.fpn_channels
        self.entering = SimplePyramid.source if body.config.is_plain else heads.levels
        channels = [body.config.channels[int(level)] for level in self.entering]
        extra = LastLevelMaxPool() if heads.pool_level else None
        self.fpn = (
            SimplePyramid(channels[0], heads.levels, heads.fpn_channels, extra_blocks=extra)
            if body.config.is_plain
            else FeaturePyramidNetwork(channels, heads.fpn_channels, extra_blocks=extra)
        )

    def forward(
        self, images: Tensor, image_sizes: Tensor, select_labels: dict[int, Tensor] | None
    ) -> tuple[dict[str, Tensor], Features]:
        """Pyramid levels by name, finest first, and the features of the backbone itself."""
        features = self.body(images, image_sizes, select_labels)
        return self.fpn(OrderedDict((level, features.maps[level]) for level in self.entering)), features


class _SelectingDetector:
    """The forward pass shared by the two detectors; it replaces torchvision's, which resizes and hides the features."""

    def forward(
        self: Any,
        images: Tensor,
        image_sizes: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        select_labels: dict[int, Tensor] | None = None,
    ) -> DetectorOutput:
        """Images (B, 3, H, W) uint8, padded; sizes (B, 2) [height, width]; targets in the frame of the images.

        `select_labels` reach the backbone only, for ground-truth selection.
        """
        sizes = [(int(height), int(width)) for height, width in image_sizes.tolist()]
        pixels = self.transform(images, sizes)
        pyramid, features = self.backbone(pixels, image_sizes, select_labels)
        proposals, rpn_losses = self.rpn(ImageList(pixels, sizes), pyramid, targets)
        detections, roi_losses = self.roi_heads(pyramid, proposals, sizes, targets)
        return DetectorOutput({**roi_losses, **rpn_losses}, detections, features)


class MaskDetector(_SelectingDetector, MaskRCNN):
    """Mask R-CNN."""


class BoxDetector(_SelectingDetector, FasterRCNN):
    """Faster R-CNN, for data with boxes only."""


def build_detector(body: AnyBackbone, heads: HeadsConfig, *, classes: int, masks: bool) -> nn.Module:
    """The detector of `classes` classes (background not counted)."""
    backbone = PyramidBackbone(body, heads)
    anchors = Anchors(heads.anchor_sizes, (heads.aspect_ratios,) * len(heads.anchor_sizes))
    shared: dict[str, Any] = {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(heads.fpn_channels, anchors.num_anchors_per_location()[0]),
        "rpn_pre_nms_top_n_train": heads.pre_nms[0],
        "rpn_pre_nms_top_n_test": heads.pre_nms[1],
        "rpn_post_nms_top_n_train": heads.post_nms[0],
        "rpn_post_nms_top_n_test": heads.post_nms[1],
        "rpn_batch_size_per_image": heads.rpn_samples,
        "box_roi_pool": RoIAlign(heads, heads.box_size),
        "box_head": TwoMLPHead(heads.fpn_channels * heads.box_size**2, heads.box_channels),
        "box_predictor": FastRCNNPredictor(heads.box_channels, classes + 1),
        "box_batch_size_per_image": heads.box_samples,
        "box_score_thresh": heads.score_threshold,
        "box_nms_thresh": heads.nms_threshold,
        "box_detections_per_img": heads.detections,
    }
    if masks:
        last = heads.mask_layers[-1]
        detector: Any = MaskDetector(
            backbone,
            mask_roi_pool=RoIAlign(heads, heads.mask_size),
            mask_head=MaskRCNNHeads(heads.fpn_channels, heads.mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(last, last, classes + 1),
            **shared,
        )
    else:
        detector = BoxDetector(backbone, **shared)
    detector.transform = Normalise()
    return detector
