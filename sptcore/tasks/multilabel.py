"""Multi-label classification: which classes an image shows, scored by PASCAL VOC's average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.data.records import DatasetIndex
from sptcore.models.backbone import Features
from sptcore.tasks.base import Batch, ModelSpec, Outcome, Result, Scores, Scoring, selection_losses
from sptcore.tasks.classifying import ImageClassifier, classified, label_states, pooled_head

KIND = "label"
_DIGITS = 9  # of a score: a float32 comes back from them


class MultiLabelTask:
    """Task: every class an image shows."""

    name: ClassVar[str] = "multilabel"
    figures: ClassVar[Mapping[str, str]] = {"label.mAP": "label mAP"}

    def heads_config(self, name: str, variant: str) -> dict[str, Any]:
        """Mean pooling and a linear layer, whatever the variant. Raises UsageError for other heads."""
        return pooled_head(name)

    def refusal(self, index: DatasetIndex) -> str | None:
        """Why `index` cannot teach this task: without objects no image has a label."""
        return None if any(record.instances for record in index.records) else "no image with an object"

    def in_words(self, spec: ModelSpec) -> str:
        """What is learned of each image."""
        return "any number of them in an image (multi-label)"

    def build_model(self, spec: ModelSpec) -> nn.Module:
        """The classifier that `spec` describes, freshly initialised."""
        return ImageClassifier(spec)

    def outcome(self, model: nn.Module, batch: Batch, *, select_loss_weight: float) -> Outcome:
        """Binary cross-entropy, mean over images and classes, and the selection loss.

        Targets of an image: `present` (C,) float, `counted` (C,) bool; a class that is not counted costs nothing.
        """
        output = classified(model, batch)
        present = torch.stack([target["present"] for target in batch.targets])
        counted = torch.stack([target["counted"] for target in batch.targets])
        each = F.binary_cross_entropy_with_logits(output.logits, present, reduction="none")
        loss = torch.where(counted, each, 0.0).sum() / counted.sum().clamp(min=1)
        own = selection_losses(output.features, batch.select_labels, select_loss_weight)
        return Outcome({"loss_label": loss, **own}, output.features, output.logits)

    @torch.inference_mode()
    def predict(self, model: nn.Module, batch: Batch, spec: ModelSpec) -> tuple[list[list[Result]], Features]:
        """One result a class for each image: the probability that the image shows it."""
        output = classified(model, batch)
        return [_entries(*one, spec) for one in zip(batch.image_ids, output.logits, strict=True)], output.features

    def score(self, index: DatasetIndex, results: Sequence[Result], scoring: Scoring) -> dict[str, Scores]:
        """Mean over the classes of PASCAL VOC's AP over images; an image without a result of a class comes last."""
        wanted = None if scoring.image_ids is None else set(scoring.image_ids)
        records = [record for record in index.records if wanted is None or record.image_id in wanted]
        states = {record.image_id: label_states(record.instances) for record in records}
        found: dict[int, dict[int, float]] = {category.category_id: {} for category in index.categories}
        for entry in results:
            if entry["image_id"] in states and entry["category_id"] in found:
                found[entry["category_id"]][entry["image_id"]] = float(entry["score"])
        per_class = {category_id: _class_ap(category_id, found[category_id], states) for category_id in found}
        known = [value for value in per_class.values() if value >= 0]
        return {KIND: Scores(KIND, {"mAP": sum(known) / len(known) if known else -1.0}, per_class)}


def _entries(image_id: int, logits: Tensor, spec: ModelSpec) -> list[Result]:
    scores = torch.sigmoid(logits.double()).tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "score": float(f"{score:.{_DIGITS}g}")}
        for (category_id, _), score in zip(spec.categories, scores, strict=True)
    ]


def _class_ap(category_id: int, found: Mapping[int, float], states: Mapping[int, Mapping[int, bool]]) -> float:
    """The AP of one class; images that show it in difficult objects only are left out. -1 where no image shows it."""
    certain = {image: shown.get(category_id) for image, shown in states.items()}
    counted = [image for image, shown in certain.items() if shown is not False]
    scores = np.array([found.get(image, -np.inf) for image in counted])
    return average_precision(scores, np.array([bool(certain[image]) for image in counted], dtype=bool))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """PASCAL VOC 2010-2012's AP: the area under precision made monotone, over every recall there is.

    `scores` (N,), -inf where nothing was found; `positive` (N,) bool. Equal scores enter together, so that no order
    among them matters. -1 without a positive.
    """
    total = int(positive.sum())
    if not total:
        return -1.0
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    hits, seen = np.cumsum(positive), np.arange(1, len(scores) + 1)
    last = np.append(scores[1:] != scores[:-1], True) & (scores > -np.inf)  # the last of equal scores
    recall, precision = hits[last] / total, hits[last] / seen[last]
    if not len(recall):
        return 0.0
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * best_from_here))
