"""Job demo: the main road on the built-in sample, small enough for two CPU cores and a few minutes.

Sparse subset, selection labels, SPT-nano and Swin-nano trained side by side under one recipe, evaluation, MACs, time an
image, heat maps, one page that shows it all. Every figure comes from what ran; at this size none of them says which
model is better.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from sptcore.data.locate import locate, open_index
from sptcore.data.sparse import SparseRule, make_sparse
from sptcore.demo.contest import Entrant, weigh_up
from sptcore.demo.page import own_settings, write_page
from sptcore.demo.training import MODELS, demo_config, train_side_by_side
from sptcore.labels.build import ensure_labels
from sptcore.progress import SILENT, Progress
from sptcore.runs import Run, new_run

__all__ = ["DemoReport", "Entrant", "demo"]

MAX_RATIO = Fraction(1, 5)
PICTURES = 6


@dataclass(frozen=True)
class DemoReport:
    """The folder of the demo and what was found. `own_settings`: those of the recipe that are not the paper's."""

    folder: Path
    subset: Path
    seen: int
    kept: int
    entrants: tuple[Entrant, ...]
    heatmaps: tuple[Path, ...]
    page: Path
    own_settings: dict[str, float]
    seconds: float


def demo(
    *, folder: Path | None = None, epochs: int | None = None, seed: int = 0, progress: Progress = SILENT
) -> DemoReport:
    """Walk the whole road; everything is left in `folder`, by default a new one under `runs/demo`.

    Raises EnvironmentFault when `folder` is in use, and whatever its steps raise.
    """
    begun = time.monotonic()
    run = new_run("demo", "spt-nano-sample", folder=folder)
    run.make_latest("demo")
    subset, seen, kept = cut_subset(run.home / "sample-s20", progress)
    images = label_subset(subset, progress)
    configs = {model: demo_config(model, subset, epochs=epochs, seed=seed) for model in MODELS}
    trained = train_side_by_side(configs, run.home, images=images, progress=progress)
    entrants = weigh_up(trained, subset, progress)
    heatmaps = draw_heatmaps(trained["spt-nano"].run, subset, run.home / "heatmaps", progress)
    page = write_page(run.home / "report.html", entrants, heatmaps, configs["spt-nano"])
    run.write_json("result.json", [entrant.to_dict() for entrant in entrants])
    own = own_settings(configs["spt-nano"])
    return DemoReport(run.home, subset, seen, kept, entrants, heatmaps, page, own, round(time.monotonic() - begun, 1))


def cut_subset(out: Path, progress: Progress) -> tuple[Path, int, int]:
    """The sample's images with less than MAX_RATIO object pixels, as a data set at `out`; images seen and kept."""
    report = make_sparse(locate("sample"), SparseRule(MAX_RATIO), out, progress=progress)
    return out, sum(part["images"] for part in report.manifest["splits"].values()), report.kept


def label_subset(subset: Path, progress: Progress) -> int:
    """Build the selection labels beside the subset, before two processes want them at once; training images."""
    indexes = [open_index(subset, split) for split in ("train", "val")]
    for index in indexes:
        ensure_labels(index, progress=progress)
    return len(indexes[0].records)


def draw_heatmaps(run: Run, subset: Path, folder: Path, progress: Progress) -> tuple[Path, ...]:
    """Selection heat maps, labels beside, of the first validation images that have objects."""
    from sptcore.viz.job import Output, viz_selection
    from sptcore.viz.pictures import Reading, find_pictures
    from sptcore.viz.selection import Look

    pictures = [one for one in find_pictures(str(subset), Reading()) if one.record and len(one.record.instances) > 1]
    wanted = Look(labels=True)
    report = viz_selection(pictures[:PICTURES], [str(run.home)], wanted, Output(folder), progress=progress)
    return tuple(image.file for image in report.images)
