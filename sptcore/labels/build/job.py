"""The job make-labels: data set -> label store, in parallel, resumable, in shards, the same bytes every time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sptcore.data.lock import build_lock
from sptcore.data.records import DatasetIndex
from sptcore.data.source_file import check_marks
from sptcore.errors import DataError, EnvironmentFault, IntegrityError, UsageError
from sptcore.files import as_fault
from sptcore.labels.build.check import check_store
from sptcore.labels.build.crew import build_blocks
from sptcore.labels.build.recipe import LabelSource, Recipe
from sptcore.labels.build.staging import WHOLE, Shard, Staging
from sptcore.labels.pyramid import DEFAULT_STRIDES
from sptcore.labels.store import Flag, LabelStore, publish
from sptcore.labels.store.schema import bits_name
from sptcore.progress import SILENT, Progress


@dataclass(frozen=True)
class BuildReport:
    """What a store holds. `select_ratios`: selected cells over all cells, by stride, over all images.

    `object_ratio` is object pixels over image pixels of all images; `built` tells whether it was made just now.
    """

    path: Path
    n_images: int
    n_empty: int
    n_box_only: int
    n_crowd: int
    n_repaired: int
    n_objects: int
    object_ratio: float
    select_ratios: dict[int, float]
    n_bytes: int
    seal: str
    part: str
    built: bool
    seconds: float = 0.0


def build_labels(
    index: DatasetIndex,
    out: str | Path,
    *,
    strides: Iterable[int] = DEFAULT_STRIDES,
    source: LabelSource = "auto",
    jobs: int = 1,
    resume: bool = False,
    progress: Progress = SILENT,
    shard: Shard = WHOLE,
    force: bool = False,
) -> BuildReport:
    """Build the label store of `index` at `out`: the same bytes whatever `jobs` is, and however often it was resumed.

    An existing `out` is replaced only with `force`; with `resume` a complete one is kept, and the blocks of a build
    that was stopped are used. Raises EnvironmentFault (cannot write there, built by another process), IntegrityError
    (what is to be resumed is of another source, a source file changed meanwhile), DataError (a mask picture is wrong),
    ResourceError (a worker died).
    """
    started, out, recipe = time.monotonic(), Path(out), Recipe.of(index, strides, source)
    check_target(out, index, replace=force or resume)
    with build_lock(out, progress=progress):
        if out.exists() and resume and not force:
            check_store(out, index, recipe, part=str(shard))
            progress.note(f"{out} is complete already")
            return summarise(out, built=False)
        if out.exists() and not force:
            raise _exists(out)
        build_under_lock(index, out, recipe, jobs=jobs, resume=resume, progress=progress, shard=shard)
    return summarise(out, built=True, seconds=time.monotonic() - started)


def check_target(out: Path, index: DatasetIndex, *, replace: bool) -> None:
    """Raise, before any work, where a store cannot be written at `out`; nothing is changed."""
    folder = out.parent
    if not folder.is_dir():
        raise EnvironmentFault("the folder does not exist", where=str(folder), hint=f"make it first: mkdir -p {folder}")
    if out.is_dir():
        raise EnvironmentFault("the output is a folder", where=str(out), hint="name a file: --out labels.h5")
    if out.exists():
        if index.annotation_path.exists() and out.samefile(index.annotation_path):
            raise UsageError("the output is the annotation file itself", where=str(out))
        if not replace:
            raise _exists(out)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise as_fault(PermissionError(13, "Permission denied"), out)


def _exists(out: Path) -> EnvironmentFault:
    return EnvironmentFault("the output exists already", where=str(out), hint="add --force to replace it")


def build_under_lock(
    index: DatasetIndex,
    out: Path,
    recipe: Recipe,
    *,
    jobs: int,
    resume: bool,
    progress: Progress,
    shard: Shard = WHOLE,
) -> None:
    """Build and publish, replacing what is at `out`; the caller holds `build_lock(out)`.

    Finished blocks stay for `resume` when the build is stopped or the disk is full, not when the data are at fault.
    """
    staging = Staging(out, index, recipe, shard)
    try:
        blocks = staging.begin(resume=resume, progress=progress)
        total = sum(len(block.records) for block in blocks)
        progress.start("label images", total)
        try:
            build_blocks(recipe, blocks, min(jobs, len(blocks)), progress)
        finally:
            progress.finish()
        _check_source(index, staging)
        with staging.stores() as stores:
            publish(out, staging.header, stores, staging.report, progress)
    except (DataError, ValueError):
        staging.discard()
        raise
    except BaseException:
        if staging.has_work():
            progress.note(f"what is done is kept in {staging.folder}: go on with --resume")
        else:
            staging.discard()
        raise
    staging.discard()


def _check_source(index: DatasetIndex, staging: Staging) -> None:
    """Raise IntegrityError where mask pictures or annotations changed meanwhile; the blocks are of no use then."""
    try:
        check_marks(index.marks)
    except IntegrityError:
        staging.discard()
        raise


def summarise(path: Path, *, built: bool, seconds: float = 0.0) -> BuildReport:
    """The BuildReport of a store on disk."""
    with LabelStore(path) as store:
        index, flags = store.index, store.index["image/flags"]
        pixels = index["image/height"].astype(np.int64) * index["image/width"]
        return BuildReport(
            path=path,
            n_images=len(store),
            n_empty=int(np.count_nonzero(flags & Flag.EMPTY)),
            n_box_only=int(np.count_nonzero(flags & Flag.BOX_ONLY)),
            n_crowd=int(np.count_nonzero(flags & Flag.CROWD)),
            n_repaired=int(np.count_nonzero(flags & Flag.REPAIRED)),
            n_objects=int(index["image/n_objects"].sum()),
            object_ratio=float(index["image/object_pixels"].sum() / max(int(pixels.sum()), 1)),
            select_ratios={stride: _select_ratio(store, stride) for stride in store.strides},
            n_bytes=path.stat().st_size,
            seal=store.seal,
            part=store.header.part,
            built=built,
            seconds=seconds,
        )


def _select_ratio(store: LabelStore, stride: int) -> float:
    heights, widths = (store.index[f"image/{side}"].astype(np.int64) for side in ("height", "width"))
    cells = int((-(-heights // stride) * -(-widths // stride)).sum())
    selected = sum(int(np.unpackbits(piece).sum()) for piece in store.read_all(bits_name(stride)))
    return selected / max(cells, 1)
