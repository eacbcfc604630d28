"""Measuring a model on a split: COCO's figures, and what each block selected of what it should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sptcore.data.records import DatasetIndex
from sptcore.progress import SILENT, Progress, track
from sptcore.tasks.base import BlockCounts, ModelSpec, Task, add_counts, block_counts
from sptcore.tasks.coco_metrics import CocoScores, coco_scores
from sptcore.training.datasets import ImageDataset, load_batches
from sptcore.training.ground_truth import coco_truth
from sptcore.training.sampler import EpochSampler
from sptcore.training.state import by_stage
from sptcore.training.stop import StopRequest


class Interrupted(Exception):
    """An evaluation was asked to stop before its end."""


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on a split: `scores` of "bbox" and, with masks, "segm"; `counts` of every selecting block.

    `results`: the detections in COCO's results format; `images`: how many were looked at.
    """

    images: int
    scores: dict[str, CocoScores]
    counts: list[BlockCounts] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def main(self) -> float:
        """Box AP, by which the best weights are chosen."""
        return self.scores["bbox"].figures["AP"]

    def figures(self) -> dict[str, float]:
        """All of it flat: `bbox.AP` ... `segm.ARl`, then `select_ratio.stage3`, `label_ratio...`, `recall...`."""
        flat = {f"{kind}.{name}": value for kind, one in self.scores.items() for name, value in one.figures.items()}
        for stage, counts in by_stage(self.counts).items():
            flat[f"select_ratio.{stage}"] = counts.select_ratio
            flat[f"label_ratio.{stage}"] = counts.label_ratio
            flat |= {} if counts.recall is None else {f"recall.{stage}": counts.recall}
            flat |= {} if counts.precision is None else {f"precision.{stage}": counts.precision}
        return flat


@dataclass(frozen=True)
class Running:
    """How a model is run over a split."""

    device: torch.device
    batch: int = 8
    workers: int = 0
    backend: str = "faster"


def evaluate_model(
    task: Task,
    model: nn.Module,
    spec: ModelSpec,
    dataset: ImageDataset,
    index: DatasetIndex,
    *,
    running: Running,
    stop: StopRequest | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Run `model` (put in evaluation mode) over `dataset`, whose records are those of `index`, and score it.

    Raises Interrupted between two batches when `stop` has a cause.
    """
    results: list[dict[str, Any]] = []
    counts: list[BlockCounts] = []
    model.eval()
    for found, selected in _run(task, model, spec, dataset, running=running, stop=stop, progress=progress):
        results += found
        counts = add_counts(counts, selected) if selected else counts
    return Evaluation(len(dataset), score(index, results, masks=spec.masks, backend=running.backend), counts, results)


def _run(
    task: Task,
    model: nn.Module,
    spec: ModelSpec,
    dataset: ImageDataset,
    *,
    running: Running,
    stop: StopRequest | None,
    progress: Progress,
) -> Iterator[tuple[list[dict[str, Any]], list[BlockCounts]]]:
    """COCO results and token counts of each batch, every image once."""
    sampler = EpochSampler(len(dataset), running.batch, shuffle=False)
    draws = list(sampler.batches(0))
    draws[-1] = draws[-1][: len(dataset) - running.batch * (len(draws) - 1)]
    batches = load_batches(dataset, draws, workers=running.workers, pin=running.device.type == "cuda")
    for batch in track(batches, progress, "evaluating", len(draws)):
        if stop is not None and stop.cause:
            raise Interrupted
        here = batch.to(running.device)
        with torch.inference_mode():
            predictions, features = task.predict(model, here, spec)
            counts = block_counts(features, here.select_labels)
        yield [entry for one in predictions for entry in one.to_coco()], counts


def score(
    index: DatasetIndex,
    results: Sequence[dict[str, Any]],
    *,
    masks: bool,
    backend: str = "faster",
    image_ids: Sequence[int] | None = None,
) -> dict[str, CocoScores]:
    """COCO scores of results against the annotations of `index`: of boxes, and of masks where both have them."""
    truth = coco_truth(index)
    kinds = ("bbox", "segm") if masks and index.has_masks else ("bbox",)
    return {kind: coco_scores(truth, results, kind=kind, backend=backend, image_ids=image_ids) for kind in kinds}
