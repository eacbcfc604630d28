"""What a sparse set consists of beside its annotations: ratios.csv, manifest.json, and images where they are wanted."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from sptcore import __version__
from sptcore.data.format import Source
from sptcore.data.images import check_file_name, find_image
from sptcore.data.locate import MANIFEST, MANIFEST_SCHEMA, read_manifest
from sptcore.data.records import DatasetIndex, Dropped
from sptcore.data.sparse.measure import BlockMeasure, ImageMeasure
from sptcore.data.sparse.rule import KEPT, OVER_LIMIT, REASONS, SparseRule
from sptcore.data.sparse.shards import SHARD_FILE
from sptcore.errors import DataError, EnvironmentFault, IntegrityError
from sptcore.files import sha256_of
from sptcore.progress import Progress, track

Placing = Literal["none", "symlink", "hardlink", "copy"]
COLUMNS = (
    "split", "image_id", "file_name", "width", "height", "object_pixels", "ratio", "n_objects", "verdict"
)  # fmt: skip
CONVENTIONS = {
    "object pixels": "union of the objects' pixels, overlaps once; with overlap=sum once an object",
    "masks": "as pycocotools rasterises them",
    "boxes": "half-open pixels [x1, x2), clipped to the image; columns ceil(x1 - 0.5) to ceil(x2 - 0.5) - 1",
    "image pixels": "width * height of the annotation",
    "images without objects": "ratio 0; kept unless drop_empty",
    "entries": "bytes of the source",
}
DROPPED_ENTRIES = {
    "coco": "left out, except where only one polygon of an annotation was dropped",
    "bdd": "not counted; they stay in the frames written, which are whole",
    "voc": "not counted; they stay in the files written, which are whole",
}
LANDMARKS = ("0.15", "0.20", "0.25")
BINS = 20
LISTED = 10_000
FILES_NAMED = 50


def verdicts(images: Sequence[ImageMeasure], rule: SparseRule) -> list[str]:
    """The verdict on every image, in order; images over the limit are told apart from those that fail the rule."""
    found, kept = [], 0
    for image in images:
        verdict = rule.verdict(image)
        if verdict == KEPT:
            kept += 1
            if rule.limit is not None and kept > rule.limit:
                verdict = OVER_LIMIT
        found.append(verdict)
    return found


def write_ratios(path: Path, split: str, images: Sequence[ImageMeasure], found: Sequence[str]) -> None:
    """Append one line an image to ratios.csv; `ratio` is rounded, the exact one is object_pixels over the area."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for image, verdict in zip(images, found, strict=True):
            ratio = f"{image.object_pixels / (image.width * image.height):.6f}"
            size = (image.width, image.height, image.object_pixels, ratio, image.n_objects)
            writer.writerow((split, image.image_id, image.file_name, *size, verdict))


def split_document(
    header: DatasetIndex, measured: BlockMeasure, found: Sequence[str], rule: SparseRule
) -> dict[str, Any]:
    """What the manifest says of one split, its image root aside."""
    counts = {reason: found.count(reason) for reason in REASONS}
    return {
        "source": {"path": str(header.annotation_path.absolute()), "sha256": header.source_sha256},
        "images": len(found),
        "kept": counts[KEPT],
        "verdicts": counts,
        "without_objects": sum(image.n_objects == 0 for image in measured.images),
        "kept_without_objects": sum(
            image.n_objects == 0 and verdict == KEPT for image, verdict in zip(measured.images, found, strict=True)
        ),
        "would_keep": {mark: _would_keep(measured.images, rule, Fraction(mark)) for mark in LANDMARKS},
        "histogram": histogram(measured.images),
        "has_masks": measured.has_masks,
        "dropped": _dropped_document(measured.dropped),
        "noticed": measured.counts,
        "notes": list(header.notes),
    }


def _would_keep(images: Iterable[ImageMeasure], rule: SparseRule, limit: Fraction) -> int:
    return sum(rule.verdict(image, limit) == KEPT for image in images)


def histogram(images: Iterable[ImageMeasure], bins: int = BINS) -> list[int]:
    """Images by ratio: `bins` equal steps of [0, 1], in integers; what is 1 or more goes into the last."""
    counts = [0] * bins
    for image in images:
        counts[min(bins * image.object_pixels // (image.width * image.height), bins - 1)] += 1
    return counts


def _dropped_document(dropped: Sequence[Dropped]) -> dict[str, Any]:
    causes: dict[str, int] = {}
    for fault in dropped:
        causes[fault.cause] = causes.get(fault.cause, 0) + 1
    listed = [[fault.cause, fault.where, fault.detail] for fault in dropped[:LISTED]]
    return {"total": len(dropped), "by_cause": dict(sorted(causes.items())), "listed": listed}


def write_manifest(
    folder: Path, source: Source, rule: SparseRule, splits: dict[str, dict[str, Any]], extra: dict[str, Any]
) -> dict[str, Any]:
    """Write manifest.json with the hashes of all annotation files below `folder`; the same bytes for the same input."""
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "tool": f"spt {__version__}",
        "format": source.format,
        "origin": {"name": source.name, "root": str(source.root.absolute())},
        "rule": rule.as_document(),
        "conventions": CONVENTIONS | {"dropped annotations": DROPPED_ENTRIES.get(source.format, "not counted")},
        **extra,
        "splits": splits,
        "output": _hashes(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="ascii")
    return manifest


def set_around(target: Path) -> Path | None:
    """The nearest folder above `target` that is a set or a part of one, of this version or a later one."""
    return next((folder for folder in target.parents if (folder / SHARD_FILE).is_file() or _is_set(folder)), None)


def _is_set(folder: Path) -> bool:
    try:
        return read_manifest(folder) is not None
    except DataError:
        return True


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise IntegrityError when the files of a set are no longer those of its manifest; others may lie beside them."""
    hint = "write the set again with --force"
    known: dict[str, Any] = manifest.get("output", {})
    for path, value in known.get("files", {}).items():
        if not (folder / path).is_file():
            raise IntegrityError("a file of the set is missing", where=str(folder / path), hint=hint)
        if sha256_of(folder / path) != value:
            raise IntegrityError("the file is not the one that its manifest names", where=str(folder / path), hint=hint)
    if "files" not in known and _hashes(folder) != known:
        raise IntegrityError("the files are not those of the manifest", where=str(folder), hint=hint)


def _is_ours(path: Path) -> bool:
    """Whether a path of the set (relative to it) is make-sparse's: the manifest tells of itself, labels come later."""
    return len(path.parts) > 1 or not (path.name == MANIFEST or path.name.startswith((".", "labels-")))


def _hashes(folder: Path) -> dict[str, Any]:
    """Every file's SHA-256, and one over all as `sha256sum` would print them."""
    below = ((path, path.relative_to(folder)) for path in folder.rglob("*"))
    paths = sorted(relative.as_posix() for path, relative in below if _is_ours(relative) and path.is_file())
    sums = {path: sha256_of(folder / path) for path in paths}
    together = hashlib.sha256("".join(f"{value}  {path}\n" for path, value in sums.items()).encode()).hexdigest()
    document: dict[str, Any] = {"n_files": len(sums), "sha256": together}
    if len(sums) <= FILES_NAMED:
        document["files"] = sums
    return document


def place_images(
    root: Path, names: Sequence[str], target: Path, placing: Placing, *, follow_symlinks: bool, progress: Progress
) -> None:
    """Put the images called `names` below `root` at the same names below `target`.

    Raises DataError with the number of those that are missing, before any is placed.
    """
    missing = [name for name in names if check_file_name(name) or not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images are missing or no regular files, first {missing[0]!r}",
            where=str(root),
            hint="fetch them, or write the annotations only with --images none",
        )
    for name in track(names, progress, f"images ({placing})"):
        path = find_image(root, name, follow_symlinks=follow_symlinks)
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if not to.exists():
            _place(path, to, placing)


def _place(path: Path, to: Path, placing: Placing) -> None:
    if placing == "symlink":
        to.symlink_to(path.absolute())
    elif placing == "copy":
        shutil.copyfile(path, to)
    else:
        try:
            os.link(os.path.realpath(path), to)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            raise EnvironmentFault(
                f"cannot link: {error.strerror}", where=str(to), hint="use --images copy or --images symlink"
            ) from error
