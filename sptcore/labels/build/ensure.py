"""The label store a data set goes with: where it lies, and building it when it is not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from sptcore.cache import cache_folder
from sptcore.data.locate import read_manifest
from sptcore.data.lock import build_lock
from sptcore.data.records import DatasetIndex
from sptcore.data.workers import usable_processors
from sptcore.errors import IntegrityError
from sptcore.files import as_fault
from sptcore.labels.build.check import check_store
from sptcore.labels.build.job import build_under_lock
from sptcore.labels.build.recipe import LabelSource, Recipe, image_set_digest
from sptcore.labels.build.staging import Staging
from sptcore.labels.pyramid import DEFAULT_STRIDES
from sptcore.labels.store.schema import VERSION
from sptcore.progress import SILENT, Progress

_LEVELS_UP = 5  # how far above its annotations a set's manifest may lie (VOCdevkit/VOC2012/ImageSets/Main)


def ensure_labels(
    index: DatasetIndex,
    *,
    labels: str | Path = "auto",
    strides: Iterable[int] = DEFAULT_STRIDES,
    source: LabelSource = "auto",
    jobs: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """The path of a label store that belongs to `index`; `progress.note` says when it has to be built first.

    `labels` is a file, or "auto": the file is then looked for, and built where it is missing, at `label_path`. Several
    processes may ask at once: one builds, the others wait. `jobs` defaults to the processors this process may use.
    Raises IntegrityError for a store of other annotations or another set of images, DataError for a named file that is
    not there, and what `build_labels` raises.
    """
    recipe = Recipe.of(index, strides, source)
    if str(labels) != "auto":
        path = Path(labels).expanduser()
        check_store(path, index)
        return path
    path = label_path(index, recipe)
    if _fits(path, index, recipe, progress):
        return path
    make_folder(path.parent)
    with build_lock(path, wait=True, progress=progress):
        if not _fits(path, index, recipe, progress):
            progress.note(f"building the selection labels of {len(index.records)} images into {path}")
            resume = Staging(path, index, recipe).can_resume()
            build_under_lock(index, path, recipe, jobs=jobs or usable_processors(), resume=resume, progress=progress)
    return path


def label_path(index: DatasetIndex, recipe: Recipe) -> Path:
    """Where the labels of `index` belong: in the folder of a set that make-sparse wrote, else in the cache.

    In the cache the name carries a fingerprint of the source, the images and the recipe.
    """
    own = _folder_of_sparse_set(index.annotation_path)
    if own is not None and os.access(own, os.W_OK | os.X_OK):
        suffix = "" if recipe.source == "auto" else f"-{recipe.source}"
        return own / f"labels-{index.split}{suffix}.h5"
    header = recipe.header(index)
    parts = [header.source_sha256, header.params_json, image_set_digest(index), VERSION[0]]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache_folder() / "labels" / f"{index.format}-{index.split}-{key[:16]}.h5"


def _folder_of_sparse_set(annotation: Path) -> Path | None:
    annotation = annotation.absolute()
    return next(
        (folder for folder in (annotation, *annotation.parents[:_LEVELS_UP]) if read_manifest(folder) is not None), None
    )


def _fits(path: Path, index: DatasetIndex, recipe: Recipe, progress: Progress) -> bool:
    """Whether the store is there and belongs to `index`; a damaged one in the cache counts as not there."""
    if not path.exists():
        return False
    try:
        check_store(path, index, recipe if path.parent == cache_folder() / "labels" else None)
    except IntegrityError as error:
        if path.parent != cache_folder() / "labels":
            raise
        progress.warn(f"the labels in the cache are built again: {error}")
        return False
    return True


def make_folder(folder: Path) -> None:
    """Make the folder labels are looked for in. Raises EnvironmentFault."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_fault(error, folder) from error
