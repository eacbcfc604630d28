"""Does a label store belong to these annotations, and does it say what they say?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sptcore.data.records import DatasetIndex
from sptcore.errors import IntegrityError
from sptcore.labels.build.recipe import Recipe, fingerprint, repaired_images
from sptcore.labels.pyramid import levels
from sptcore.labels.store import LabelEntry, LabelStore
from sptcore.labels.store.schema import WHOLE
from sptcore.progress import SILENT, Progress, track

_REBUILD = "build the labels of these annotations: spt make-labels DATA, with --force in the same place"


def check_store(path: Path, index: DatasetIndex, recipe: Recipe | None = None, *, part: str | None = WHOLE) -> None:
    """Raise IntegrityError unless the store at `path` was built from `index`, and by `recipe` where one is given.

    `part` is the shard it must be, None for any. The message names what differs first: the source, the images or the
    settings. The images' own bytes are not read.
    """
    with LabelStore(path) as store:
        header = store.header
        if part is not None and header.part != part:
            message = f"this is shard {header.part} of a store, not {'the whole' if part == WHOLE else part}"
            raise IntegrityError(
                message, where=str(path), hint="join all shards with spt make-labels DATA --merge FILES"
            )
        sha256, _ = fingerprint(index)
        difference = first_difference(store, index) if header.part == WHOLE else None
        if header.source_sha256 != sha256:
            what = f"another annotation file (SHA-256 {header.source_sha256[:12]}…, not {sha256[:12]}…)"
            difference = difference or "the images are the same, so their annotations must differ"
            message = f"the label store was made from {what}; first difference: {difference}"
            raise IntegrityError(message, where=str(path), hint=_REBUILD)
        if difference is not None:
            message = f"the label store is of another set of images; first difference: {difference}"
            raise IntegrityError(message, where=str(path), hint=_REBUILD)
        if recipe is not None:
            _check_settings(store, recipe.params(index))


def _check_settings(store: LabelStore, wanted: dict[str, object]) -> None:
    found = store.header.params
    for name in wanted:
        if found.get(name) != wanted[name]:
            message = f"the label store was made with {name} = {found.get(name)!r}, not {wanted[name]!r}"
            raise IntegrityError(message, where=str(store.path), hint=_REBUILD)


def first_difference(store: LabelStore, index: DatasetIndex) -> str | None:
    """The first image that is another in the store than in `index`: by id, order or size. None if none is."""
    ids, stored = np.array([record.image_id for record in index.records], dtype=np.int64), store.image_ids
    if not np.array_equal(ids, stored):
        missing, extra = ids[~np.isin(ids, stored)], stored[~np.isin(stored, ids)]
        if len(missing):
            return f"image {missing[0]} is not in the store"
        return f"image {extra[0]} of the store is not in the annotations" if len(extra) else "the order of the images"
    sizes = np.array([(record.width, record.height) for record in index.records], dtype=np.int64).reshape(-1, 2)
    found = np.stack([store.index["image/width"], store.index["image/height"]], axis=1)
    changed = np.flatnonzero((sizes != found).any(axis=1))
    if not len(changed):
        return None
    row = changed[0]
    return f"image {ids[row]} is {_times(found[row])} in the store, {_times(sizes[row])} in the annotations"


def _times(size: np.ndarray) -> str:
    return f"{size[0]}x{size[1]}"


def verify_labels(
    path: str | Path, index: DatasetIndex, *, sample: int | None = None, progress: Progress = SILENT
) -> int:
    """Derive the labels again from the annotations and compare; the number of images compared.

    Every byte of the store is checked first. `sample` images, spread evenly, are derived again; all where it is None.
    Raises IntegrityError for a damaged store, one of another source, and for the first image whose labels differ.
    """
    path = Path(path)
    with LabelStore(path) as store:
        check_store(path, index, part=None)
        store.verify(progress)
        source = store.header.params.get("source")
        recipe = Recipe.of(index, store.strides, source)  # type: ignore[arg-type]
        records = [record for record in index.records if record.image_id in store]
        if sample is not None and sample < len(records):
            records = [records[k] for k in np.linspace(0, len(records) - 1, sample).round().astype(int).tolist()]
        repaired = repaired_images(index)
        differences = [
            f"image {record.image_id} ({record.file_name!r}): {difference}"
            for record in track(records, progress, "derive the labels again")
            if (difference := _difference(store, recipe.entry(record, repaired=record.image_id in repaired)))
            is not None
        ]
    if differences:
        more = f" (and {len(differences) - 1} other images)" if len(differences) > 1 else ""
        message = f"the labels do not follow from the annotations: {differences[0]}{more}"
        raise IntegrityError(message, where=str(path), hint=_REBUILD)
    return len(records)


def _difference(store: LabelStore, entry: LabelEntry) -> str | None:
    image = store.image(entry.image_id)
    for name in ("file_name", "object_pixels", "n_objects", "flags"):
        if getattr(entry, name) != getattr(image, name):
            return f"{name} is {getattr(image, name)!r}, derived {getattr(entry, name)!r}"
    return _mask_difference(store, entry)


def _mask_difference(store: LabelStore, entry: LabelEntry) -> str | None:
    mask = store.mask(entry.image_id)
    if not np.array_equal(mask, entry.mask):
        return f"the mask differs in {np.count_nonzero(mask != entry.mask)} pixels"
    grids = store.levels(entry.image_id).grids
    for stride, grid in levels(entry.mask, store.strides).items():
        if not np.array_equal(grids[stride], grid):
            return f"level {stride} differs in {np.count_nonzero(grids[stride] != grid)} cells"
    return None
