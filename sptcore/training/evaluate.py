"""Measuring a model on a split: the task's figures, and what each block selected of what it should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import nn

from sptcore.data.records import DatasetIndex
from sptcore.models.backbone import Features
from sptcore.progress import SILENT, Progress, track
from sptcore.tasks.base import (
    NO_CLASS,
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
from sptcore.training.distributed import ALONE, Group
from sptcore.training.loading import BatchLoader, padded_size
from sptcore.training.meters import by_stage
from sptcore.training.sampler import Draw
from sptcore.training.stop import StopRequest


@dataclass(frozen=True)
class ImageTokens:
    """One image alone: its `size` (height, width), its `frame`, a multiple of 32, the `selected` tokens of each block.

    `containers`: in how many containers, or windows, these lie.
    """

    image_id: int
    size: tuple[int, int]
    frame: tuple[int, int]
    selected: tuple[int, ...]
    containers: tuple[int, ...] = ()


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
    """How a model is run over a split; the processes of `group` take turns in its batches."""

    device: torch.device
    batch: int = 8
    workers: int = 0
    backend: str = "faster"
    group: Group = ALONE


@dataclass(frozen=True)
class _Part:
    """What one batch came to; `number` is its place among all batches of the split."""

    number: int
    found: dict[int, list[Result]]
    counts: list[BlockCounts]
    tokens: list[ImageTokens]


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

    Of several processes the leader gets the evaluation, the same as if it were alone, the others one without content.
    Raises Interrupted, on each of them, when `stop` of one had a cause between two batches.
    """
    model.eval()
    group, own = running.group, []
    cause = None
    for number, batch in _batches(dataset, running, progress):
        cause = None if stop is None else stop.cause
        if cause:
            break
        own.append(_predict(task, model, batch, spec, number))
    if any(group.gathered(cause)):
        raise Interrupted
    parts = sorted(chain.from_iterable(group.collected(own)), key=lambda part: part.number)
    if not group.is_leader:
        return Evaluation(len(dataset), {})
    found = {image_id: entries for part in parts for image_id, entries in part.found.items()}
    results = [entry for record in index.records for entry in found[record.image_id]]
    scores = task.score(index, results, Scoring(masks=spec.masks, backend=running.backend))
    counts: list[BlockCounts] = []
    for part in parts:
        counts = add_counts(counts, part.counts) if part.counts else counts
    return Evaluation(len(dataset), scores, counts, results, [tokens for part in parts for tokens in part.tokens])


@torch.inference_mode()
def _predict(task: Task, model: nn.Module, batch: Batch, spec: ModelSpec, number: int) -> _Part:
    predictions, features = task.predict(model, batch, spec)
    known = [[entry for entry in image if entry["category_id"] != NO_CLASS] for image in predictions]
    found = dict(zip(batch.image_ids, known, strict=True))
    return _Part(number, found, block_counts(features, batch.select_labels), _image_tokens(batch, features))


def alike_in_batches(dataset: ImageDataset, batch: int) -> list[list[Draw]]:
    """Every image once, in batches of one frame: beside a larger image it would be padded further, and the dense blocks
    would answer a little differently.
    """
    frames: dict[tuple[int, int], list[Draw]] = {}
    for number, record in enumerate(dataset.records):
        draw = Draw(0, number)
        width, height = dataset.geometry(record, draw).frame
        frames.setdefault(padded_size(height, width), []).append(draw)
    return [alike[first : first + batch] for alike in frames.values() for first in range(0, len(alike), batch)]


def _batches(dataset: ImageDataset, running: Running, progress: Progress) -> Iterator[tuple[int, Batch]]:
    """This process's share of the batches, with their numbers, on the device; between all of them every image once."""
    draws = alike_in_batches(dataset, running.batch)
    numbers = range(running.group.rank, len(draws), running.group.world)
    with BatchLoader(dataset, workers=running.workers, pin=running.device.type == "cuda") as loader:
        loaded = loader.batches(draws[number] for number in numbers)
        for number, batch in zip(numbers, track(loaded, progress, "evaluating", len(numbers)), strict=True):
            yield number, batch.to(running.device)


def _image_tokens(batch: Batch, features: Features) -> list[ImageTokens]:
    sizes: list[tuple[int, int]] = [(height, width) for height, width in batch.image_sizes.tolist()]
    frames = [padded_size(*size) for size in sizes]
    if not features.selections:
        return [ImageTokens(*row, ()) for row in zip(batch.image_ids, sizes, frames, strict=True)]
    selected = torch.stack([one.selection.counts for one in features.selections], dim=1).tolist()
    packed = [one.packing.containers_of_images for one in features.selections if one.packing is not None]
    containers = torch.stack(packed, dim=1).tolist() if len(packed) == len(features.selections) else [()] * len(batch)
    rows = zip(batch.image_ids, sizes, frames, map(tuple, selected), map(tuple, containers), strict=True)
    return [ImageTokens(*row) for row in rows]
