"""First look at a Scalabel file: where its frames lie in the bytes, its names and classes, the faults of the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Raw

from sptcore.data.bdd.categories import DETECTION, SEGMENTATION, Classes
from sptcore.data.bdd.frames import BddBlock, Rules
from sptcore.data.bdd.layout import Labels, find_images, find_labels, subset_path
from sptcore.data.bdd.schema import Config, FrameHead, ImageSize, leaf_names
from sptcore.data.format import Source
from sptcore.data.images import check_file_name
from sptcore.data.json_text import BOM, Spans, chosen_slices, decode_text, entry_spans, place, refuse_duplicate_keys
from sptcore.data.ledger import name_notes
from sptcore.data.records import DatasetIndex, Dropped
from sptcore.data.source_file import SourceFile
from sptcore.errors import DataError, IntegrityError

_STEP = 1 << 13


@dataclass(frozen=True)
class Scan:
    """What a Scalabel file holds, by position. `top` is the JSON path of the frames: "" or "frames"."""

    source: SourceFile
    top: str
    spans: Spans
    names: list[str]
    config: Config


def scan(path: Path) -> Scan:
    """Scan a list of frames, or an object with `frames`. Raises DataError with a byte offset or JSON path."""
    source = SourceFile(path)
    top, spans, config = _frames(source)
    names = [name for low in range(0, len(spans.starts), _STEP) for name in _names(source, top, spans, low)]
    for position, name in enumerate(names):
        fault = check_file_name(name)
        if fault:
            raise DataError(f"{fault}: {name[:80]!r}", where=f"{path}: {top}[{position}].name")
    return Scan(source, top, spans, names, config)


def _frames(source: SourceFile) -> tuple[str, Spans, Config]:
    """The JSON path of the array of frames, where its entries lie, and the file's `config`."""
    path, data = source.path, source.data
    try:
        value = decode_text(source, list[Raw] | dict[str, Raw])
    except msgspec.ValidationError as error:
        raise DataError(
            "the top level is neither a list of frames nor an object with `frames`", where=str(path)
        ) from error
    if isinstance(value, list):
        return "", entry_spans(data, value, data.index(b"["), data.rindex(b"]") + 1), Config()
    if "frames" not in value:
        raise _no_frames(path, list(value))
    refuse_duplicate_keys(path, data, value)
    try:
        entries = msgspec.json.decode(value["frames"], type=list[Raw])
    except msgspec.ValidationError as error:
        raise DataError(f"`frames` is no list ({error})", where=f"{path}: frames") from error
    return "frames", entry_spans(data, entries, *place(data, value["frames"])), _config(path, value.get("config"))


def _no_frames(path: Path, keys: list[str]) -> DataError:
    if "images" in keys and "annotations" in keys:
        return DataError("looks like COCO, not like Scalabel", where=str(path), hint="--format coco with this file")
    found = ", ".join(repr(key)[:40] for key in keys[:8]) or "none"
    return DataError(f"no `frames` at the top level (keys found: {found})", where=str(path))


def _config(path: Path, raw: Raw | None) -> Config:
    if raw is None or memoryview(raw) == b"null":
        return Config()
    try:
        return msgspec.json.decode(raw, type=Config)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(str(error)[:200], where=f"{path}: config") from error


def _names(source: SourceFile, top: str, spans: Spans, low: int) -> list[str]:
    high = min(low + _STEP, len(spans.starts))
    text = b"[%b]" % source.data[spans.starts[low] : spans.ends[high - 1]]
    try:
        return [head.name for head in msgspec.json.decode(text, type=list[FrameHead])]
    except (msgspec.DecodeError, RecursionError) as error:
        raise _frame_error(source, top, spans, low, error) from error


def _frame_error(source: SourceFile, top: str, spans: Spans, low: int, error: Exception) -> DataError:
    """The first faulty frame from `low` on, by its path."""
    for position in range(low, len(spans.starts)):
        try:
            msgspec.json.decode(source.data[spans.starts[position] : spans.ends[position]], type=FrameHead)
        except (msgspec.DecodeError, RecursionError) as fault:
            keys = source.data[spans.starts[position] : spans.starts[position] + 4096]
            hint = "--format coco with this file" if b'"bbox"' in keys or b'"image_id"' in keys else None
            message = "nested too deeply" if isinstance(fault, RecursionError) else str(fault)[:200]
            return DataError(message, where=f"{source.path}: {top}[{position}]", hint=hint)
    return DataError(str(error)[:200], where=str(source.path))


class BddStream:
    """A scanned split, handed out in blocks (`sptcore.data.format.RecordStream`)."""

    def __init__(self, source: Source, split: str, labels: Labels) -> None:
        self._scan = scan(labels.path)
        names = self._scan.names
        self.n_images = len(names)
        image_root = find_images(source, split, labels, names)
        self._rules = Rules(
            path=labels.path,
            top=self._scan.top,
            classes=_classes(self._scan.config, labels),
            image_root=image_root,
            images_present=image_root.is_dir(),
            size=_pair(self._scan.config.imageSize) or source.options.size,
            expects_masks=labels.is_instance_segmentation,
            strict=source.options.strict,
            follow_symlinks=source.options.follow_symlinks,
        )
        self.header = DatasetIndex(
            format="bdd",
            split=split,
            annotation_path=labels.path,
            image_root=image_root,
            categories=self._rules.classes.categories,
            records=(),
            notes=(labels.note(), *name_notes(names), *(["byte order mark"] if self._bom else [])),
            source_sha256=self._scan.source.sha256,
        )

    @property
    def _bom(self) -> bool:
        return self._scan.source.data.startswith(BOM)

    def blocks(self, size: int) -> Iterator[BddBlock]:
        """The frames in file order, `size` a block."""
        spans, data = self._scan.spans, self._scan.source.data
        for low in range(0, self.n_images, size):
            high = min(low + size, self.n_images)
            yield BddBlock(self._rules, low, b"[%b]" % data[spans.starts[low] : spans.ends[high - 1]])

    def write_subset(self, keep: Collection[int], out: Path, dropped: Collection[Dropped] = ()) -> list[Path]:
        """Write the kept frames, byte for byte and with all their labels: a frame is one entry of the file."""
        return write_frames(self._scan, self.header, keep, out)


def write_frames(scanned: Scan, index: DatasetIndex, keep: Collection[int], out: Path) -> list[Path]:
    """Write the frames whose position + 1 is in `keep` and every other key of the file below `out`.

    With nothing left out the file equals its source, a byte order mark excepted. Raises IntegrityError when the source
    is no longer what was scanned.
    """
    source, spans, ids = scanned.source, scanned.spans, set(keep)
    if index.source_sha256 and source.sha256 != index.source_sha256:
        raise IntegrityError("the file is not the one that was read before", where=str(index.annotation_path))
    source.check_unchanged()
    chosen = np.fromiter((number in ids for number in range(1, len(scanned.names) + 1)), bool, len(scanned.names))
    target = out / subset_path(index)
    target.parent.mkdir(parents=True, exist_ok=True)
    view = memoryview(source.data)
    with target.open("wb") as stream:
        stream.write(view[len(BOM) if source.data.startswith(BOM) else 0 : spans.first])
        for piece in chosen_slices(source.data, spans, chosen):
            stream.write(piece)
        stream.write(view[spans.last :])
    source.check_unchanged()
    return [target]


def open_stream(source: Source, split: str) -> BddStream | None:
    """The labels of a split as a stream; None when they are bitmasks, a folder of pictures."""
    labels = find_labels(source, split)
    return None if labels.path.is_dir() else BddStream(source, split, labels)


def _classes(config: Config, labels: Labels) -> Classes:
    if config.categories:
        return Classes.own(list(dict.fromkeys(leaf_names(config.categories))))
    return Classes.official(SEGMENTATION if labels.is_instance_segmentation else DETECTION)


def _pair(size: ImageSize | None) -> tuple[int, int] | None:
    return None if size is None else (size.width, size.height)
