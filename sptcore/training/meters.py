"""What is told of the steps of a run: means between two lines of metrics, and what is seen at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sptcore.tasks.base import BlockCounts, add_counts
from sptcore.training.prepare import memory_mb


@dataclass
class Meters:
    """Sums since the last line of metrics."""

    steps: int = 0
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: list[BlockCounts] = field(default_factory=list)

    def add(self, values: Mapping[str, float], counts: list[BlockCounts], images: int) -> None:
        """One step: `values` are averaged over steps, `counts` over tokens."""
        self.steps += 1
        self.images += images
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts = add_counts(self.counts, counts) if counts else self.counts

    def row(self) -> dict[str, float]:
        """Means, and select, own-gate and label ratio and recall of each stage."""
        row = {name: total / self.steps for name, total in self.sums.items()}
        for stage, counts in by_stage(self.counts).items():
            row |= {f"select_ratio.{stage}": counts.select_ratio, f"label_ratio.{stage}": counts.label_ratio}
            if counts.own_ratio is not None:
                row[f"own_ratio.{stage}"] = counts.own_ratio
            if counts.recall is not None:
                row[f"recall.{stage}"] = counts.recall
        return row

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Meters:
        """The inverse of `dataclasses.asdict`."""
        counts = [BlockCounts(**entry) for entry in values["counts"]]
        return cls(values["steps"], values["images"], dict(values["sums"]), counts)


def by_stage(counts: list[BlockCounts]) -> dict[str, BlockCounts]:
    """The counts of each stage's blocks added up, under "stage3" ..."""
    stages: dict[str, BlockCounts] = {}
    for one in counts:
        name = f"stage{one.stage}"
        stages[name] = stages[name] + one if name in stages else one
    return stages


@dataclass
class Pace:
    """How fast the steps of a run go: images a second over the last steps, newer ones counting more."""

    images: int
    _last: float = 0.0
    _seconds: float = 0.0

    def start(self) -> float:
        """The steps begin, or go on after a pause; returns the time."""
        self._last = time.monotonic()
        return self._last

    def step(self, device: torch.device) -> dict[str, float]:
        """One step was taken: `img_per_s` and the peak `memory_mb`."""
        before, now = self._last, self.start()
        self._seconds = 0.9 * self._seconds + 0.1 * (now - before) if self._seconds else now - before
        return {"img_per_s": round(self.images / max(self._seconds, 1e-9), 1), "memory_mb": round(memory_mb(device))}


def shown_values(values: Mapping[str, float], counts: list[BlockCounts]) -> dict[str, float]:
    """What a person watches: the loss, its parts and the select ratio of each stage, under their columns' names."""
    losses = {name: round(value, 3) for name, value in values.items() if name == "loss" or name.startswith("loss_")}
    ratios = {f"select_ratio.{stage}": round(one.select_ratio, 3) for stage, one in by_stage(counts).items()}
    return losses | ratios
