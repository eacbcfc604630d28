"""What the trained models of the demo came to: accuracy, selection, MACs of what was selected, time an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sptcore.data.locate import open_index
from sptcore.demo.training import Trained
from sptcore.profiling.macs import DetectorShape, backbone_macs, detector_macs, total
from sptcore.profiling.timing import Protocol, measure
from sptcore.progress import Progress
from sptcore.runs.models import LoadedModel, load_model
from sptcore.tasks.base import Batch
from sptcore.tasks.detector import HeadsConfig
from sptcore.training.datasets import ImageDataset, WholeImage
from sptcore.training.loading import BatchLoader
from sptcore.training.meters import by_stage
from sptcore.training.sampler import Draw

TIMED_IMAGES = 8


@dataclass(frozen=True)
class Entrant:
    """One model's figures. Ratios and recall are of stage 3 on the validation images, None for a dense model.

    `first_ap50` is from the first validation: half way, or sooner in a short run. MACs are of one image, every block at
    the select ratio it was measured at. `ms_image`: median milliseconds of one image through the whole detector on one
    thread, the models taking turns.
    """

    model: str
    run: Path
    params: int
    ap: float
    ap50: float
    first_ap50: float
    select_ratio: float | None
    label_ratio: float | None
    recall: float | None
    backbone_macs: int
    detector_macs: int
    ms_image: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "run": str(self.run)}


def weigh_up(trained: Mapping[str, Trained], subset: Path, progress: Progress) -> tuple[Entrant, ...]:
    """The figures of every model, in order."""
    loaded = {model: load_model(one.run) for model, one in trained.items()}
    times = time_an_image(loaded, subset, progress)
    return tuple(_entrant(trained[model], loaded[model], times[model]) for model in trained)


def time_an_image(loaded: Mapping[str, LoadedModel], subset: Path, progress: Progress) -> dict[str, float]:
    """Median milliseconds of an image by model, over the first validation images of `subset`, interleaved."""
    spec = next(iter(loaded.values())).spec
    index = open_index(subset, "val")
    dataset = ImageDataset(index, WholeImage(spec.resolution))
    draws = [[Draw(0, number)] for number in range(min(TIMED_IMAGES, len(dataset)))]
    with BatchLoader(dataset) as loader:
        batches = list(loader.batches(draws))

    def rival(model: LoadedModel) -> None:
        for batch in batches:
            _predict(model, batch)

    rivals = {name: lambda model=model: rival(model) for name, model in loaded.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # maps of 32 x 32 tokens leave a second thread waiting most of the time
    try:
        timings = measure(rivals, Protocol(warmup=1, rounds=5), title="time an image", progress=progress)
    finally:
        torch.set_num_threads(threads)
    return {name: 1000 * timing.median / len(batches) for name, timing in timings.items()}


def _predict(model: LoadedModel, batch: Batch) -> None:
    model.task.predict(model.model, batch, model.spec)


def _entrant(trained: Trained, loaded: LoadedModel, ms_image: float) -> Entrant:
    spec, run = loaded.spec, trained.run
    validations = [row for row in run.metrics() if "val.bbox.AP" in row]
    first, last = validations[0], validations[-1]
    stage3 = by_stage(list(trained.counts)).get("stage3")
    ratios = [block.select_ratio for block in trained.counts]
    width, height = spec.resolution
    heads = DetectorShape(HeadsConfig.from_dict(spec.heads), len(spec.categories), spec.masks)
    return Entrant(
        model=spec.variant,
        run=run.home,
        params=sum(parameter.numel() for parameter in loaded.model.parameters()),
        ap=last["val.bbox.AP"],
        ap50=last["val.bbox.AP50"],
        first_ap50=first["val.bbox.AP50"],
        select_ratio=None if stage3 is None else stage3.select_ratio,
        label_ratio=None if stage3 is None else stage3.label_ratio,
        recall=None if stage3 is None else stage3.recall,
        backbone_macs=total(backbone_macs(spec.backbone, height, width, ratios))[0],
        detector_macs=total(detector_macs(spec.backbone, height, width, ratios, shape=heads))[0],
        ms_image=ms_image,
    )
