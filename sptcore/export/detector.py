"""A detector as one graph from pixels to boxes: torchvision's evaluation without the choices it makes by sizes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, remove_small_boxes, roi_align

from sptcore.export.operators import nms_by_group

SMALLEST_BOX = 1e-2  # pixels; torchvision's, of detections


class DetectorGraph(nn.Module):
    """One frame (1, 3, H, W) uint8 -> boxes (N, 4) xyxy in its pixels, scores (N,), classes (N,), masks (N, m, m).

    `category_ids`: the data set's own ids, what `classes` holds. Masks, where the model has any, are shares of
    foreground on a grid over the box. Boxes come best first.
    """

    category_ids: Tensor

    def __init__(self, detector: Any, entry: nn.Module, frame: tuple[int, int], category_ids: list[int]) -> None:
        super().__init__()
        self.detector = detector
        self.entry = entry
        self.frame = frame
        self.register_buffer("category_ids", torch.tensor(category_ids, dtype=torch.int64))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels, image_sizes = self.entry(images)
        pyramid, _ = self.detector.backbone(pixels, image_sizes, None)
        proposals = self._propose(pixels, list(pyramid.values()))
        heads = self.detector.roi_heads
        pooled = heads.box_head(_pool(heads.box_roi_pool, pyramid, proposals))
        logits, deltas = heads.box_predictor(pooled)
        boxes, scores, labels = self._detect(logits, deltas, proposals)
        found = (boxes, scores, self.category_ids[labels - 1])
        if not heads.has_mask():
            return found
        masks = heads.mask_predictor(heads.mask_head(_pool(heads.mask_roi_pool, pyramid, boxes)))
        own = labels[:, None, None, None].expand(-1, 1, *masks.shape[-2:])
        return (*found, masks.sigmoid().gather(1, own).squeeze(1))

    def _propose(self, pixels: Tensor, levels: list[Tensor]) -> Tensor:
        """Region proposals (R, 4), as `RegionProposalNetwork.filter_proposals`."""
        rpn = self.detector.rpn
        objectness, deltas = rpn.head(levels)
        anchors = rpn.anchor_generator(ImageList(pixels, [self.frame]), levels)
        sizes = [one[0].numel() for one in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        best = torch.cat(
            [
                one.topk(min(rpn.pre_nms_top_n(), one.numel())).indices + offset
                for one, offset in zip(objectness.flatten().split(sizes), _starts(sizes), strict=True)
            ]
        )
        level = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])[best]
        boxes = rpn.box_coder.decode(deltas, anchors).view(-1, 4)[best]
        boxes, scores = clip_boxes_to_image(boxes, self.frame), objectness.flatten()[best].sigmoid()
        keep = remove_small_boxes(boxes, rpn.min_size)
        boxes, scores, level = boxes[keep], scores[keep], level[keep]
        keep = torch.where(scores >= rpn.score_thresh)[0]
        boxes, scores, level = boxes[keep], scores[keep], level[keep]
        return boxes[nms_by_group(boxes, scores, level, len(sizes), rpn.nms_thresh)[: rpn.post_nms_top_n()]]

    def _detect(self, logits: Tensor, deltas: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4), scores and labels (N,) from 1 up, as `RoIHeads.postprocess_detections`."""
        heads, classes = self.detector.roi_heads, logits.shape[-1]
        boxes = heads.box_coder.decode_single(deltas, proposals).unflatten(1, (classes, 4))
        boxes = clip_boxes_to_image(boxes, self.frame)[:, 1:].reshape(-1, 4)  # a detection a class, background left out
        scores = logits.softmax(-1)[:, 1:].reshape(-1)
        labels = torch.arange(1, classes).expand(logits.shape[0], -1).reshape(-1)
        keep = torch.where(scores > heads.score_thresh)[0]
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        keep = remove_small_boxes(boxes, SMALLEST_BOX)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        keep = nms_by_group(boxes, scores, labels, classes, heads.nms_thresh)[: heads.detections_per_img]
        return boxes[keep], scores[keep], labels[keep]


def _pool(pool: Any, pyramid: dict[str, Tensor], boxes: Tensor) -> Tensor:
    """Features of boxes (N, 4) of one image, (N, C, s, s), each from its own level, as `MultiScaleRoIAlign`."""
    level_of = pool.map_levels([boxes])
    rois = F.pad(boxes, (1, 0))  # in front the number of the image
    maps = [pyramid[name] for name in pool.featmap_names]
    pooled = boxes.new_zeros(boxes.shape[0], maps[0].shape[1], *pool.output_size)
    for level, (grid, scale) in enumerate(zip(maps, pool.scales, strict=True)):
        mine = torch.where(level_of == level)[0]
        pooled[mine] = roi_align(grid, rois[mine], pool.output_size, scale, pool.sampling_ratio)
    return pooled


def _starts(sizes: list[int]) -> list[int]:
    return [sum(sizes[:number]) for number in range(len(sizes))]
