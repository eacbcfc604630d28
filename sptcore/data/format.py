"""What a data set format is: five functions in one module, found through the table `FORMATS`.

A format module (`coco`, `bdd`, a plug-in's) has

    detect(root: Path) -> bool                                   does this folder hold such a data set
    splits(root: Path) -> list[str]                              the splits it has, as "train", "val" ...
    read(source: Source, split: str) -> DatasetIndex             strict about the file, lenient about one annotation
    write_subset(index, keep: Collection[int], out: Path) -> list[Path]
                                 the images whose id is in `keep`, byte for byte, as a layout that `detect` knows,
                                 into the existing folder `out`

    image_folder(index) -> Path                                  where, below the `out` of write_subset, the image of a
                                                                 record belongs: out / image_folder(index) / file_name

and may have `stream(source, split) -> RecordStream` for annotation files that should not be held as objects at once.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from sptcore.data.records import DatasetIndex, Dropped, ImageRecord, Polygons


@dataclass(frozen=True)
class ReadOptions:
    """How a reader treats what it meets.

    `strict`: the first annotation-level fault is a DataError instead of a dropped annotation. `follow_symlinks`: images
    may lie outside the root through links. `size`: (width, height) of images whose annotation does not say.
    """

    strict: bool = False
    follow_symlinks: bool = False
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Source:
    """A data set found on disk, before anything of it is read.

    `name` as a person says it; `format` a key of FORMATS; `root` the folder of the layout. `annotation` is the one
    file given by `--ann`. `origin` is the root of the set that a make-sparse folder was cut from, and `image_roots`
    (split -> folder) tells where images lie that are not in the layout's own place. `padding` (columns, rows) is that
    of the set's manifest. `kind` prefers a kind of labels where a layout has several ("ins_seg" of BDD100K).
    """

    name: str
    format: str
    root: Path
    annotation: Path | None = None
    origin: Path | None = None
    image_roots: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    options: ReadOptions = ReadOptions()
    padding: tuple[int, int] = (1, 1)
    kind: str | None = None

    def __reduce__(self):  # a mapping proxy does not pickle
        parts = (self.name, self.format, self.root, self.annotation, self.origin, dict(self.image_roots))
        return (Source, (*parts, self.options, self.padding, self.kind))


@dataclass(frozen=True)
class Loaded:
    """Some images of a split, what was dropped from them and what was kept but is worth knowing."""

    records: tuple[ImageRecord, ...]
    dropped: tuple[Dropped, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class Block(Protocol):
    """A run of images that can be sent to another process and read there."""

    def load(self) -> Loaded:
        """Read and validate this block's images. Raises DataError, or IntegrityError when the source has changed."""
        ...


class RecordStream(Protocol):
    """A split read in blocks. `header` is its DatasetIndex without records; `n_images` how many there are."""

    header: DatasetIndex
    n_images: int

    def blocks(self, size: int) -> Iterator[Block]:
        """The split in file order, `size` images a block."""
        ...

    def write_subset(self, keep: Collection[int], out: Path, dropped: Collection[Dropped] = ()) -> list[Path]:
        """As the format's own `write_subset`, from what was scanned already; `dropped` is what the blocks left out."""
        ...


@dataclass(frozen=True)
class Format:
    """One row of FORMATS. The module is imported when one of its functions is first called.

    `folders` are the names a set of this format usually goes by below a data root, `home` its official page,
    `layout` one line on what the folder must hold.
    """

    name: str
    title: str
    module: str
    folders: tuple[str, ...] = ()
    home: str = ""
    layout: str = ""

    def load(self) -> Any:
        """The format's module."""
        return importlib.import_module(self.module)

    def detect(self, root: Path) -> bool:
        """Whether `root` holds a data set in this format."""
        return self.load().detect(root)

    def splits(self, root: Path) -> list[str]:
        """The splits found below `root`."""
        return self.load().splits(root)

    def read(self, source: Source, split: str) -> DatasetIndex:
        """All records of one split. Raises DataError for a fault of the file (docs/faults.md)."""
        return self.load().read(source, split)

    def write_subset(self, index: DatasetIndex, keep: Collection[int], out: Path) -> list[Path]:
        """Write the images whose id is in `keep` into the folder `out`, their entries byte for byte."""
        return self.load().write_subset(index, keep, out)

    def image_folder(self, index: DatasetIndex) -> Path:
        """The folder, relative to the `out` of `write_subset`, that a subset's images belong in."""
        return self.load().image_folder(index)

    def stream(self, source: Source, split: str) -> RecordStream | None:
        """The split in blocks, None where the format only reads whole."""
        stream = getattr(self.load(), "stream", None)
        return None if stream is None else stream(source, split)


def collect(stream: RecordStream, size: int = 4096) -> DatasetIndex:
    """A whole split as one index, read `size` images at a time; polygons are kept as text, a tenth of the memory."""
    records, dropped, counts = [], list(stream.header.dropped), Counter(stream.header.counts)
    for block in stream.blocks(size):
        loaded = block.load()
        records.extend(map(_with_text, loaded.records))
        dropped.extend(loaded.dropped)
        counts.update(loaded.counts)
    has_masks = any(instance.segmentation is not None for record in records for instance in record.instances)
    return msgspec.structs.replace(
        stream.header, records=tuple(records), dropped=tuple(dropped), counts=dict(counts), has_masks=has_masks
    )


def _with_text(record: ImageRecord) -> ImageRecord:
    """The record with its polygons as JSON text, for keeping."""
    if not any(isinstance(instance.segmentation, Polygons) for instance in record.instances):
        return record
    instances = tuple(
        msgspec.structs.replace(instance, segmentation=Polygons(json=msgspec.json.encode(instance.segmentation.parts)))
        if isinstance(instance.segmentation, Polygons)
        else instance
        for instance in record.instances
    )
    return msgspec.structs.replace(record, instances=instances)
