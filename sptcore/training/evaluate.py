"""Measuring a model on a split: the task's figures, and what each block selected of what it should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from sptcore.data.records import DatasetIndex
from sptcore.models.backbone import Features
from sptcore.progress import SILENT, Progress, track
from sptcore.tasks.base import (
    Batch,
    BlockCounts,
    ModelSpec,
    Result,
    Scores,
    Scoring,
    Task,
    add_counts,
    block_counts,
)
from sptcore.training.datasets import ImageDataset
from sptcore.training.loading import BatchLoader, padded_size
from sptcore.training.sampler import Draw
from sptcore.training.state import by_stage
from sptcore.training.stop import StopRequest


@dataclass(frozen=True)
class ImageTokens:
    """One image alone: its `frame` (height, width), a multiple of 32, and the `selected` tokens of each block."""

    image_id: int
    frame: tuple[int, int]
    selected: tuple[int, ...]


class Interrupted(Exception):
    """An evaluation was asked to stop before its end."""


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on a split: `scores` by kind ("bbox", "segm" ...); `counts` of every selecting block.

    `results`: what was found, in the order of the split; `tokens`: what was selected of each image.
    """

    images: int
    scores: dict[str, Scores]
    counts: list[BlockCounts] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    tokens: list[ImageTokens] = field(default_factory=list)

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
    found: dict[int, list[Result]] = {}
    counts: list[BlockCounts] = []
    tokens: list[ImageTokens] = []
    model.eval()
    for batch in _batches(dataset, running, stop, progress):
        with torch.inference_mode():
            predictions, features = task.predict(model, batch, spec)
            found |= zip(batch.image_ids, predictions, strict=True)
            selected = block_counts(features, batch.select_labels)
            counts = add_counts(counts, selected) if selected else counts
            tokens += _image_tokens(batch, features)
    results = [entry for record in index.records for entry in found[record.image_id]]
    scores = task.score(index, results, Scoring(masks=spec.masks, backend=running.backend))
    return Evaluation(len(dataset), scores, counts, results, tokens)


def alike_in_batches(dataset: ImageDataset, batch: int) -> list[list[Draw]]:
    """Every image once, in batches of one frame: beside a larger image it would be padded further, and the dense blocks
    would answer a little differently.
    """
    frames: dict[tuple[int, int], list[Draw]] = {}
    for number, record in enumerate(dataset.records):
        draw = Draw(0, number)
        width, height = dataset.geometry(record, draw).out
        frames.setdefault(padded_size(height, width), []).append(draw)
    return [alike[first : first + batch] for alike in frames.values() for first in range(0, len(alike), batch)]


def _batches(dataset: ImageDataset, running: Running, stop: StopRequest | None, progress: Progress) -> Iterator[Batch]:
    """Every image once, on the device."""
    draws = alike_in_batches(dataset, running.batch)
    with BatchLoader(dataset, workers=running.workers, pin=running.device.type == "cuda") as loader:
        for batch in track(loader.batches(draws), progress, "evaluating", len(draws)):
            if stop is not None and stop.cause:
                raise Interrupted
            yield batch.to(running.device)


def _image_tokens(batch: Batch, features: Features) -> list[ImageTokens]:
    if not features.selections:
        return []
    selected = torch.stack([one.selection.counts for one in features.selections], dim=1).tolist()
    frames = [padded_size(height, width) for height, width in batch.image_sizes.tolist()]
    rows = zip(batch.image_ids, frames, selected, strict=True)
    return [ImageTokens(image_id, frame, tuple(counts)) for image_id, frame, counts in rows]
