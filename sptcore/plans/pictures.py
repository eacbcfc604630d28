"""Heat maps beside a table: the same validation images seen by every row that selects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    from sptcore.runs.device import pick_device
    from sptcore.viz.job import output_paths, save_figure
    from sptcore.viz.pictures import Reading, find_pictures
    from sptcore.viz.selection import Look, open_watchers, see

    drawn = {}
    for name, ready in sets.items() if plan.pictures else ():
        rows = [row.key for row in plan.rows_at(scale) if row.data == name and _selects(folder, row.key)]
        if not rows:
            continue
        weights = [str(folder.run_home(row, 0) / "weights" / "last.safetensors") for row in rows]
        opened = zip(open_watchers(weights, pick_device(device)), rows, strict=True)
        watchers = [replace(watcher, name=row) for watcher, row in opened]
        ann = ready.annotations.get("val")
        reading = Reading(split="val", format=ready.format, ann=None if ann is None else Path(ann))
        some = find_pictures(ready.data, reading, limit=plan.pictures)
        out = folder.home / "pictures" / name
        for seen, path in zip(see(some, watchers, Look(labels=True), progress), output_paths(some, out), strict=True):
            save_figure(seen.figure, path)
        drawn[f"pictures of {name}"] = out
    return drawn


def _selects(folder: Folder, row: str) -> bool:
    first = folder.outcome(row, 0)
    return first is not None and bool(first.blocks)
