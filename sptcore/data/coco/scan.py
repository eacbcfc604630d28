"""First look at a COCO file: where every entry lies in its bytes, whom it belongs to, and the faults of the file.

Syntax is checked over the whole file, identifiers and sizes in full, segmentations not at all (`checks.py` does).
Positions instead of objects keep the file of COCO's train2017 at 50 MB beside its bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from sptcore.data.coco.schema import MAX_ANNOTATIONS, MAX_PIXELS, AnnotationHead, CategoryEntry, ImageEntry
from sptcore.data.images import check_file_name
from sptcore.data.json_text import BOM, Spans, array_spans, decode_text, refuse_duplicate_keys
from sptcore.data.ledger import name_notes
from sptcore.data.records import Category, Dropped
from sptcore.data.source_file import SourceFile
from sptcore.errors import DataError

NEEDED = ("images", "annotations", "categories")
STEP = 1 << 16
_AT = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)


@dataclass(frozen=True)
class Scan:
    """What a COCO file holds, by position. `owner` (n_annotations,) int32 indexes `images`; -1: entry left out."""

    source: SourceFile
    images: list[ImageEntry]
    image_spans: Spans
    annotation_spans: Spans
    owner: np.ndarray
    categories: tuple[Category, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]


def scan(path: Path, *, strict: bool = False) -> Scan:
    """Scan the file at `path`. Raises DataError with a byte offset or JSON path; with `strict` for any bad entry."""
    source = SourceFile(path)
    notes = ["the file starts with a byte order mark"] if source.data.startswith(BOM) else []
    values = _top_level(source)
    image_spans = _spans(source, values, "images")
    spans = _spans(source, values, "annotations")
    images = _decode_array(path, values, "images", ImageEntry)
    _check_images(path, images, notes)
    categories = _categories(path, _decode_array(path, values, "categories", CategoryEntry), notes)
    if len(spans.starts) > MAX_ANNOTATIONS:
        raise DataError(f"{len(spans.starts)} annotations, more than {MAX_ANNOTATIONS}", where=f"{path}: annotations")
    owner, dropped = _owners(source, spans, images, categories)
    if strict and dropped:
        raise strict_error(path, dropped[0])
    return Scan(source, images, image_spans, spans, owner, categories, tuple(dropped), tuple(notes))


def strict_error(path: Path, fault: Dropped) -> DataError:
    """The error that `--strict` makes of an annotation-level fault."""
    detail = f" ({fault.detail})" if fault.detail else ""
    return DataError(
        f"{fault.cause}{detail}", where=f"{path}: {fault.where}", hint="without --strict such annotations are left out"
    )


def _top_level(source: SourceFile) -> dict[str, Raw]:
    path, data = source.path, source.data
    try:
        values = decode_text(source, dict[str, Raw])
    except msgspec.ValidationError as error:
        raise _not_an_object(path, data) from error
    missing = [key for key in NEEDED if key not in values]
    if missing:
        raise _missing_keys(path, missing, list(values))
    refuse_duplicate_keys(path, data, values)
    return values


def _not_an_object(path: Path, data: bytes) -> DataError:
    head = data[:4096]
    if b'"labels"' in head or b'"frames"' in head or b'"videoName"' in head:
        return _looks_like_scalabel(path)
    return DataError("the top level is no object with `images`, `annotations` and `categories`", where=str(path))


def _missing_keys(path: Path, missing: list[str], keys: list[str]) -> DataError:
    if "frames" in keys:
        return _looks_like_scalabel(path)
    found = ", ".join(repr(key)[:40] for key in keys[:8]) or "none"
    return DataError(f"no `{missing[0]}` at the top level (keys found: {found})", where=str(path))


def _looks_like_scalabel(path: Path) -> DataError:
    return DataError(
        "looks like Scalabel (BDD100K) labels, not like COCO",
        where=str(path),
        hint="spt make-sparse bdd, or --format bdd with this file",
    )


def _spans(source: SourceFile, values: dict[str, Raw], key: str) -> Spans:
    try:
        return array_spans(source.data, values[key])
    except msgspec.ValidationError as error:
        raise DataError(str(error), where=f"{source.path}: {key}") from error


def _decode_array(path: Path, values: dict[str, Raw], key: str, entry_type: type) -> list[Any]:
    try:
        return msgspec.json.decode(values[key], type=list[entry_type])  # type: ignore[valid-type]
    except (msgspec.DecodeError, RecursionError) as error:
        raise _entry_error(path, key, error, partial(_entry_at, values[key])) from error


def _entry_at(array: Raw, position: int) -> Any:
    """The entry as it is; None where a part of it is beyond all types (1e400)."""
    entry = msgspec.json.decode(array, type=list[Raw])[position]
    try:
        return msgspec.json.decode(entry)
    except (msgspec.DecodeError, RecursionError):
        return None


def _entry_error(path: Path, key: str, error: Exception, entry_at: Any, offset: int = 0) -> DataError:
    """A typed error with the JSON path, and the image's name where the entry has one."""
    message, place = _AT.fullmatch(str(error)).groups()  # type: ignore[union-attr]
    position = re.match(r"\[(\d+)\](.*)", place or "", re.DOTALL)
    if position is None:
        return DataError(message, where=f"{path}: {key}")
    number = int(position[1])
    entry = entry_at(number)
    names = [f"{name} {entry[name]!r}" for name in ("id", "file_name") if isinstance(entry, dict) and name in entry]
    about = f" ({', '.join(names)})"[:200] if names else ""
    return DataError(f"{message}{about}", where=f"{path}: {key}[{number + offset}]{position[2]}")


def _check_images(path: Path, images: list[ImageEntry], notes: list[str]) -> None:
    for position, image in enumerate(images):
        fault = check_file_name(image.file_name)
        if image.width * image.height > MAX_PIXELS:
            fault = f"{image.width}x{image.height} is more than {MAX_PIXELS // 10**6} megapixels"
        if fault:
            raise DataError(f"{fault} (id {image.id}, {image.file_name!r})", where=f"{path}: images[{position}]")
    ids = np.array([image.id for image in images], np.int64)
    twice = _repeated(ids)
    if twice is not None:
        first, second = twice
        raise DataError(f"image id {ids[first]} occurs twice", where=f"{path}: images[{first}] and images[{second}]")
    notes += name_notes([image.file_name for image in images])


def _repeated(values: np.ndarray) -> tuple[int, int] | None:
    """The positions of the first value that occurs again, and of its second occurrence."""
    order = np.argsort(values, kind="stable")
    again = order[1:][values[order[1:]] == values[order[:-1]]]
    if not len(again):
        return None
    second = int(again.min())
    return int(np.flatnonzero(values == values[second])[0]), second


def _categories(path: Path, entries: list[CategoryEntry], notes: list[str]) -> tuple[Category, ...]:
    twice = _repeated(np.array([entry.id for entry in entries], np.int64))
    if twice is not None:
        where = f"{path}: categories[{twice[0]}] and categories[{twice[1]}]"
        raise DataError(f"category id {entries[twice[1]].id} occurs twice", where=where)
    names = [entry.name for entry in entries]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        notes.append(f"category names that occur twice: {', '.join(map(repr, repeated[:5]))}")
    return tuple(Category(entry.id, entry.name) for entry in entries)


def _owners(
    source: SourceFile, spans: Spans, images: list[ImageEntry], categories: tuple[Category, ...]
) -> tuple[np.ndarray, list[Dropped]]:
    """The image of every annotation, and the annotations that belong to none or repeat an id."""
    ids, image_ids, category_ids = _heads(source, spans)
    known = np.array([image.id for image in images], np.int64)
    order = np.argsort(known)
    slot = np.searchsorted(known[order], image_ids) if len(known) else np.zeros(len(ids), np.int64)
    slot = np.minimum(slot, max(len(known) - 1, 0))
    owner = order[slot].astype(np.int32) if len(known) else np.full(len(ids), -1, np.int32)
    lost = known[owner] != image_ids if len(known) else np.ones(len(ids), bool)
    repeated = np.zeros(len(ids), bool)
    by_id = np.argsort(ids, kind="stable")
    repeated[by_id[1:][ids[by_id[1:]] == ids[by_id[:-1]]]] = True
    unclassed = ~np.isin(category_ids, np.array([category.category_id for category in categories], np.int64))
    dropped = [
        *_drops(repeated, "repeated annotation id", "id", ids, np.where(lost, -1, image_ids)),
        *_drops(lost & ~repeated, "unknown image", "image_id", image_ids, np.full(len(ids), -1)),
        *_drops(unclassed & ~lost & ~repeated, "unknown category", "category_id", category_ids, image_ids),
    ]
    owner[repeated | lost | unclassed] = -1
    return owner, dropped


def _drops(mask: np.ndarray, cause: str, key: str, values: np.ndarray, image_ids: np.ndarray) -> list[Dropped]:
    return [
        Dropped(cause, f"annotations[{at}].{key}", str(values[at]), at, int(image_ids[at]))
        for at in np.flatnonzero(mask).tolist()
    ]


def _heads(source: SourceFile, spans: Spans) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """id, image_id and category_id of every annotation, (n,) int64 each."""
    count = len(spans.starts)
    ids, image_ids, category_ids = (np.empty(count, np.int64) for _ in range(3))
    decoder = msgspec.json.Decoder(list[AnnotationHead])
    for low in range(0, count, STEP):
        high = min(low + STEP, count)
        text = b"[%b]" % source.data[spans.starts[low] : spans.ends[high - 1]]
        try:
            heads = decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            entry_at = partial(_entry_at, Raw(text))
            raise _entry_error(source.path, "annotations", error, entry_at, low) from error
        ids[low:high] = np.fromiter((head.id for head in heads), np.int64, high - low)
        image_ids[low:high] = np.fromiter((head.image_id for head in heads), np.int64, high - low)
        category_ids[low:high] = np.fromiter((head.category_id for head in heads), np.int64, high - low)
    return ids, image_ids, category_ids
