"""Object detection: Mask R-CNN where the data has masks, Faster R-CNN where it has boxes only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sptcore.data.records import DatasetIndex
from sptcore.errors import UsageError, did_you_mean
from sptcore.models.backbone import Features
from sptcore.models.variants import build_backbone
from sptcore.tasks.base import Batch, ModelSpec, Outcome, Result, Scores, Scoring, selection_losses
from sptcore.tasks.coco_metrics import coco_scores, encode_mask
from sptcore.tasks.coco_truth import coco_truth
from sptcore.tasks.detector import HEADS, DetectorOutput, HeadsConfig, build_detector

_MASKS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first, in pixels of its file.

    `boxes_xyxy` (N, 4) float32, `scores` (N,), `category_ids` (N,) under the data set's own ids, `masks`: COCO
    compressed run lengths, or None for a model without masks.
    """

    image_id: int
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    masks: list[dict[str, Any]] | None = None

    def to_coco(self) -> list[dict[str, Any]]:
        """Entries of a COCO results file."""
        entries = []
        for number, (x1, y1, x2, y2) in enumerate(self.boxes_xyxy.tolist()):
            entry: dict[str, Any] = {
                "image_id": self.image_id,
                "category_id": int(self.category_ids[number]),
                "bbox": [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)],
                "score": round(float(self.scores[number]), 6),
            }
            if self.masks is not None:
                entry["segmentation"] = self.masks[number]
            entries.append(entry)
        return entries


class DetectionTask:
    """Task: boxes and masks of objects."""

    name: ClassVar[str] = "detect"
    figures: ClassVar[Mapping[str, str]] = {
        "bbox.AP": "box AP",
        "bbox.AP50": "box AP50",
        "bbox.AP75": "box AP75",
        "segm.AP": "mask AP",
        "segm.AP50": "mask AP50",
    }

    def heads_config(self, name: str, variant: str) -> dict[str, Any]:
        """The heads called `name`; "auto" is small for a nano model and standard otherwise. Raises UsageError."""
        chosen = ("small" if "nano" in variant else "standard") if name == "auto" else name
        if chosen not in HEADS:
            raise UsageError(f"no heads '{chosen}'", hint=did_you_mean(chosen, HEADS) or ", ".join(HEADS))
        return HEADS[chosen].to_dict()

    def refusal(self, index: DatasetIndex) -> str | None:
        """Why `index` cannot teach this task: it needs objects."""
        return None if any(record.instances for record in index.records) else "no image with an object"

    def in_words(self, spec: ModelSpec) -> str:
        """Boxes, and masks where the data has them."""
        return "boxes and masks (Mask R-CNN)" if spec.masks else "boxes only, the data has no masks (Faster R-CNN)"

    def build_model(self, spec: ModelSpec) -> nn.Module:
        """The detector that `spec` describes, freshly initialised."""
        heads = HeadsConfig.from_dict(spec.heads)
        used = tuple(int(level) + 1 for level in heads.levels)  # maps nobody reads would have norms without gradients
        body = build_backbone(spec.backbone.with_outputs(used))
        return build_detector(body, heads, classes=len(spec.categories), masks=spec.masks)

    def outcome(self, model: nn.Module, batch: Batch, *, select_loss_weight: float) -> Outcome:
        """Losses of the proposals, boxes, masks and, weighted, of the selection. The model must be in training mode."""
        output: DetectorOutput = model(batch.images, batch.image_sizes, batch.targets, batch.select_labels)
        own = selection_losses(output.features, batch.select_labels, select_loss_weight)
        return Outcome({**output.losses, **own}, output.features)

    def losses(self, model: nn.Module, batch: Batch, *, select_loss_weight: float = 0.01) -> dict[str, Tensor]:
        """The parts of `outcome` alone."""
        return self.outcome(model, batch, select_loss_weight=select_loss_weight).losses

    def predict(self, model: nn.Module, batch: Batch, spec: ModelSpec) -> tuple[list[list[Result]], Features]:
        """The detections of each image as results, best first. The model must be in evaluation mode."""
        found, features = self.detect(model, batch, spec)
        return [one.to_coco() for one in found], features

    def score(self, index: DatasetIndex, results: Sequence[Result], scoring: Scoring) -> dict[str, Scores]:
        """COCO's twelve figures of boxes, and of masks where both results and annotations have them."""
        truth = coco_truth(index)
        kinds = ("bbox", "segm") if scoring.masks and index.has_masks else ("bbox",)
        ids = scoring.image_ids
        return {kind: coco_scores(truth, results, kind=kind, backend=scoring.backend, image_ids=ids) for kind in kinds}

    @torch.inference_mode()
    def detect(self, model: nn.Module, batch: Batch, spec: ModelSpec) -> tuple[list[Detections], Features]:
        """Detections of each image in the frame of its file. The model must be in evaluation mode."""
        output: DetectorOutput = model(batch.images, batch.image_sizes, None, batch.select_labels)
        ids = np.array([category_id for category_id, _ in spec.categories], dtype=np.int64)
        sizes = zip(batch.image_sizes.tolist(), batch.original_sizes.tolist(), strict=True)
        found = [
            _in_file_frame(image_id, detection, frame, original, ids)
            for image_id, detection, (frame, original) in zip(batch.image_ids, output.detections, sizes, strict=True)
        ]
        return found, output.features


def _in_file_frame(
    image_id: int, detection: dict[str, Tensor], frame: list[int], original: list[int], category_ids: np.ndarray
) -> Detections:
    """Boxes and masks scaled from the network's frame (height, width) to the file's."""
    scale = torch.tensor([original[1] / frame[1], original[0] / frame[0]] * 2, dtype=torch.float64)
    boxes = (detection["boxes"].double().cpu() * scale).float()
    masks = None
    if "masks" in detection:
        masks = list(_encode(detection["masks"].float().cpu(), boxes, (original[0], original[1])))
    labels = detection["labels"].cpu().numpy()
    return Detections(
        image_id, boxes.numpy(), detection["scores"].float().cpu().numpy(), category_ids[labels - 1], masks
    )


def _encode(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterable[dict[str, Any]]:
    """Paste soft masks (N, 1, m, m) into an image of (height, width), cut at one half, and run-length encode them."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    for first in range(0, len(masks), _MASKS_AT_ONCE):
        part = slice(first, first + _MASKS_AT_ONCE)
        pasted = paste_masks_in_image(masks[part], boxes[part], size)[:, 0] >= 0.5
        yield from map(encode_mask, pasted.numpy())
