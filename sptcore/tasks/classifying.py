"""What the two tasks that give images scores by class share: the network, its settings, the labels of an image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sptcore.data.records import Instance
from sptcore.errors import UsageError
from sptcore.models.classifier import Classified, Classifier
from sptcore.models.variants import build_backbone
from sptcore.tasks.base import Batch, ModelSpec
from sptcore.tasks.pixels import Normalise

HEADS = ("auto", "standard")


class ImageClassifier(Classifier):
    """A classifier of stored pixels: normalises on the device, then backbone, mean of the tokens, one linear layer.

    `label_smoothing`: the share of an image's class that training spreads over all classes.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(build_backbone(spec.backbone.with_outputs((4,))), len(spec.categories))
        self.normalise = Normalise()
        self.label_smoothing = float(spec.heads.get("label_smoothing", 0.0))

    def forward(
        self,
        images: Tensor,
        image_sizes: Tensor | None = None,
        select_labels: dict[int, Tensor] | None = None,
    ) -> Classified:
        """Images (B, 3, H, W) uint8 or float in 0..255, padded; sizes (B, 2) [height, width] -> Classified."""
        sizes = [images.shape[-2:]] * len(images) if image_sizes is None else image_sizes.tolist()
        pixels = self.normalise(images, [(int(height), int(width)) for height, width in sizes])
        return super().forward(pixels, image_sizes, select_labels)


def pooled_head(name: str, **settings: Any) -> dict[str, Any]:
    """The settings of the head called `name`: there is one, mean pooling and a linear layer. Raises UsageError."""
    if name not in HEADS:
        raise UsageError(f"no heads '{name}' for a classifier", hint=" or ".join(HEADS))
    return {"pooling": "mean", **settings}


def classified(model: Any, batch: Batch) -> Classified:
    """One forward pass; logits in float32 whatever autocast says."""
    output: Classified = model(batch.images, batch.image_sizes, batch.select_labels)
    return Classified(output.logits.float(), output.features)


def label_states(instances: Iterable[Instance]) -> dict[int, bool]:
    """Category id -> whether the image certainly shows it; False where all its objects are difficult.

    A class that is absent has no entry. PASCAL VOC leaves a class's difficult-only images out of its AP.
    """
    states: dict[int, bool] = {}
    for one in instances:
        states[one.category_id] = states.get(one.category_id, False) or not one.is_difficult
    return states
