"""What a finished run of a row came to, as numbers: the task's figures, selection, size, MACs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sptcore.errors import IntegrityError
from sptcore.files import write_atomically
from sptcore.profiling.macs import DetectorShape, backbone_macs, detector_macs, total
from sptcore.tasks.base import BlockCounts, ModelSpec
from sptcore.tasks.detector import HeadsConfig
from sptcore.training.loop import FitReport

DETECTION_SIZE = (1280, 800)  # width, height at which the paper counts a detector


@dataclass(frozen=True)
class Outcome:
    """Figures of one run. `figures` are as evaluation gives them, shares of 1; MACs are multiply-accumulates.

    `size`: width and height the MACs are of; `blocks`: name, select ratio, label ratio and recall of each block.
    """

    row: str
    seed: int
    model: str
    data: str
    steps: int
    images: int
    seconds: float
    device: str
    figures: dict[str, float]
    params: int
    size: tuple[int, int]
    macs: dict[str, int]
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Publish as JSON."""
        write_atomically(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """The inverse of `write`. Raises IntegrityError."""
        try:
            values = json.loads(path.read_bytes())
            return cls(**{**values, "size": tuple(values["size"])})
        except (ValueError, TypeError, KeyError) as error:
            hint = "remove it; the row is evaluated again"
            raise IntegrityError(f"not the result of a row: {error}", where=str(path), hint=hint) from error

    def value(self, column: str) -> float | None:
        """A figure in the unit of its column: per cent, millions of parameters, giga-MACs; None where there is none."""
        if column == "params_m":
            return self.params / 1e6
        if column.endswith("_g"):
            macs = self.macs.get(column.removesuffix("_g"))
            return None if macs is None else macs / 1e9
        if column in ("select_ratio", "label_ratio", "recall"):
            values = [block[column] for block in self.blocks if block[column] is not None]
            return 100 * sum(values) / len(values) if values else None
        value = self.figures.get(column)
        return None if value is None or value < 0 else 100 * value  # COCO's -1: nothing to find


def outcome_of(
    report: FitReport, spec: ModelSpec, params: int, *, row: str, seed: int, data: str, device: str, ratio: float | None
) -> Outcome:
    """The outcome of a finished training; `ratio` is the paper's select ratio, for MACs at it."""
    evaluation = report.evaluation
    assert evaluation is not None
    size = DETECTION_SIZE if spec.task == "detect" else spec.resolution
    return Outcome(
        row=row,
        seed=seed,
        model=spec.variant,
        data=data,
        steps=report.step,
        images=evaluation.images,
        seconds=round(report.seconds, 2),
        device=device,
        figures=evaluation.figures(),
        params=params,
        size=size,
        macs=row_macs(spec, size, evaluation.counts, ratio),
        blocks=[
            {"block": one.name, "select_ratio": one.select_ratio, "label_ratio": one.label_ratio, "recall": one.recall}
            for one in evaluation.counts
        ],
    )


def row_macs(
    spec: ModelSpec, size: tuple[int, int], counts: Sequence[BlockCounts], paper_ratio: float | None
) -> dict[str, int]:
    """MACs of a model by formula for one image of width x height, in the paper's convention (Eq. 9) at the ratios that
    were measured: `macs` of a forward pass in training, which is what the paper counts, `macs_eval` in inference,
    `macs_actual` of what runs there, `backbone` and `backbone_actual` without heads; `macs_at_paper`: training, at the
    paper's ratio.
    """
    measured = [one.select_ratio for one in counts] or 1.0
    actual, eq9 = whole_macs(spec, size, measured)
    backbone = total(backbone_macs(spec.backbone, size[1], size[0], measured))
    found = {"macs": whole_macs(spec, size, measured, training=True)[1], "macs_eval": eq9, "macs_actual": actual}
    found |= {"backbone": backbone[1], "backbone_actual": backbone[0]}
    if paper_ratio is not None:
        found["macs_at_paper"] = whole_macs(spec, size, paper_ratio, training=True)[1]
    return found


def whole_macs(
    spec: ModelSpec, size: tuple[int, int], ratio: float | Sequence[float], *, training: bool = False
) -> tuple[int, int]:
    """(actual, Eq. 9) MACs of an image of width x height: the whole detector, else the backbone alone."""
    width, height = size
    if spec.task == "detect":
        shape = DetectorShape(HeadsConfig.from_dict(spec.heads), len(spec.categories), spec.masks)
        return total(detector_macs(spec.backbone, height, width, ratio, shape=shape, training=training))
    return total(backbone_macs(spec.backbone, height, width, ratio, training=training))


def device_name(device: torch.device) -> str:
    """What the results were computed on, in words."""
    from sptcore.profiling.timing import processor_name

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
