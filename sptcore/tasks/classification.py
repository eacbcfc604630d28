"""Classification: the one class of an image (Tiny ImageNet, IN-S), scored by top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.data.records import DatasetIndex
from sptcore.models.backbone import Features
from sptcore.tasks.base import NO_CLASS, Batch, ModelSpec, Outcome, Result, Scores, Scoring, selection_losses
from sptcore.tasks.classifying import ImageClassifier, classified, pooled_head

KIND = "class"
BEST = 5


class ClassificationTask:
    """Task: the class of an image."""

    name: ClassVar[str] = "classify"
    figures: ClassVar[Mapping[str, str]] = {"class.top1": "top-1 accuracy", "class.top5": "top-5 accuracy"}

    def heads_config(self, name: str, variant: str) -> dict[str, Any]:
        """Mean pooling and a linear layer, whatever the variant. Raises UsageError for other heads."""
        return pooled_head(name, label_smoothing=0.0)

    def refusal(self, index: DatasetIndex) -> str | None:
        """Why `index` cannot teach this task: its images need a class each."""
        if not index.records:
            return "no image"
        without = next((record for record in index.records if record.class_id is None), None)
        return None if without is None else f"its images have no class of their own ({without.file_name})"

    def in_words(self, spec: ModelSpec) -> str:
        """What is learned of each image."""
        return "one an image"

    def build_model(self, spec: ModelSpec) -> nn.Module:
        """The classifier that `spec` describes, freshly initialised."""
        return ImageClassifier(spec)

    def outcome(self, model: nn.Module, batch: Batch, *, select_loss_weight: float) -> Outcome:
        """Cross-entropy with the model's label smoothing, mean over images, and the selection loss.

        Targets of an image: `classes` (C,) float, the shares of its classes: one of them 1, or two after mixing.
        """
        output = classified(model, batch)
        shares = torch.stack([target["classes"] for target in batch.targets])
        smoothing = getattr(getattr(model, "module", model), "label_smoothing", 0.0)
        loss = F.cross_entropy(output.logits, shares, label_smoothing=smoothing)
        own = selection_losses(output.features, batch.select_labels, select_loss_weight)
        return Outcome({"loss_class": loss, **own}, output.features, output.logits)

    @torch.inference_mode()
    def predict(self, model: nn.Module, batch: Batch, spec: ModelSpec) -> tuple[list[list[Result]], Features]:
        """The five best classes of each image with their probabilities, best first."""
        output = classified(model, batch)
        return [_entries(*one, spec) for one in zip(batch.image_ids, output.logits, strict=True)], output.features

    def score(self, index: DatasetIndex, results: Sequence[Result], scoring: Scoring) -> dict[str, Scores]:
        """The share of images whose class is the best, or among the five best, of their results.

        Equal scores rank in the order of the data's classes; an image without results counts as missed. The figure of
        a class is the top-1 accuracy of its images, -1 where it has none.
        """
        wanted = None if scoring.image_ids is None else set(scoring.image_ids)
        place = {category.category_id: number for number, category in enumerate(index.categories)}
        found: dict[int, list[tuple[float, int, int]]] = {}
        for entry in results:
            category_id = entry["category_id"]
            rank = (-float(entry["score"]), place.get(category_id, len(place)), category_id)
            found.setdefault(entry["image_id"], []).append(rank)
        top1: dict[int, list[bool]] = {category_id: [] for category_id in place}
        top5: list[bool] = []
        for record in index.records:
            if record.class_id is not None and (wanted is None or record.image_id in wanted):
                best = [category_id for *_, category_id in sorted(found.get(record.image_id, ()))[:BEST]]
                top1.setdefault(record.class_id, []).append(best[:1] == [record.class_id])
                top5.append(record.class_id in best)
        hits = [hit for of_class in top1.values() for hit in of_class]
        figures = {"top1": _share(hits), "top5": _share(top5)}
        per_class = {category_id: _share(of_class) for category_id, of_class in top1.items()}
        return {KIND: Scores(KIND, figures, per_class)}


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else -1.0


def _entries(image_id: int, logits: Tensor, spec: ModelSpec) -> list[Result]:
    """Equal logits rank in the order of the classes; those of NO_CLASS take no place."""
    scores = torch.softmax(logits.double(), dim=0)
    order = torch.sort(logits.cpu(), descending=True, stable=True).indices.tolist()
    return [
        {"image_id": image_id, "category_id": spec.categories[number][0], "score": float(scores[number])}
        for number in [one for one in order if spec.categories[one][0] != NO_CLASS][:BEST]
    ]
