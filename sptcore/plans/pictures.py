"""Heat maps beside a table: the same validation images seen by every row that selects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sptcore.plans.folder import Folder
from sptcore.plans.schema import Plan
from sptcore.plans.sets import ReadySet
from sptcore.progress import SILENT, Progress


def draw_pictures(
    plan: Plan, scale: str, folder: Folder, sets: Mapping[str, ReadySet], *, device: str, progress: Progress = SILENT
) -> dict[str, Path]:
    """Draw the plan's pictures into `pictures/<set>/`, where every row of the set has a first run; name -> folder.

    One figure an image: the image, what its labels are, and the sum of all blocks' selections of each row in order.
    """
    from sptcore.viz.job import Output, viz_selection
    from sptcore.viz.pictures import Reading, find_pictures
    from sptcore.viz.selection import Look

    drawn = {}
    for name, ready in sets.items() if plan.pictures else ():
        homes = [
            folder.run_home(row.key, 0) for row in plan.rows_at(scale) if row.data == name and _selects(folder, row.key)
        ]
        if not homes:
            continue
        weights = [str(home / "weights" / "last.safetensors") for home in homes]
        some = find_pictures(ready.data, Reading(split="val", format=ready.format), limit=plan.pictures)
        out = folder.home / "pictures" / name
        viz_selection(some, weights, Look(labels=True), Output(out), device=device, progress=progress)
        drawn[f"pictures of {name}"] = out
    return drawn


def _selects(folder: Folder, row: str) -> bool:
    first = folder.outcome(row, 0)
    return first is not None and bool(first.blocks)
