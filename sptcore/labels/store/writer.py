"""Writing a label store: whole, checked, or not at all, and the same bytes for the same content.

A full disk in the middle of an HDF5 write leaves files that open and lie, or kills the process. So the file is built in
memory and written like any other; beyond IN_MEMORY_LIMIT HDF5 writes to the disk through a file object of ours, which
keeps failures from it. Either way the file is read back and verified before it takes its name.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from sptcore.errors import DataError, IntegrityError
from sptcore.files import atomic_path
from sptcore.labels import pyramid
from sptcore.labels.store import rle, schema
from sptcore.labels.store.backing import GuardedFile
from sptcore.labels.store.reader import LabelStore
from sptcore.labels.store.schema import Flag, StoreHeader
from sptcore.progress import SILENT, Progress

IN_MEMORY_LIMIT = 1 << 30  # bytes
NO_FLAGS = Flag(0)


@dataclass(frozen=True, eq=False)
class LabelEntry:
    """What goes into the store for one image: `mask` uint8 0/1 (H, W), `object_pixels` the numerator of its ratio."""

    image_id: int
    file_name: str
    mask: np.ndarray
    object_pixels: int
    n_objects: int
    flags: Flag = NO_FLAGS


class Part(Protocol):
    """Some images ready to be written: their index, and the bytes of each data set in pieces."""

    @property
    def index(self) -> dict[str, np.ndarray]: ...

    def read_all(self, name: str) -> Iterator[np.ndarray]: ...


class Rows:
    """Images gathered in memory, encoded as they come."""

    def __init__(self, strides: Sequence[int]) -> None:
        self.strides = tuple(strides)
        self._columns: dict[str, list[int]] = {name: [] for name in schema.COLUMNS if not name.endswith("name_bytes")}
        self._columns |= {schema.offsets_name(stride): [] for stride in strides}
        self._bytes = {name: bytearray() for name in [*schema.data_names(strides), "image/name_bytes"]}
        self._known: set[int] = set()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, entry: LabelEntry) -> None:
        """Encode one image. Raises ValueError for an id that is there already, or a mask beyond the schema's sizes."""
        height, width = entry.mask.shape
        if entry.image_id in self._known:
            raise ValueError(f"image {entry.image_id} is in the store already")
        if max(height, width) > schema.LARGEST_SIDE:
            raise ValueError(f"image {entry.image_id} is {width} x {height}; the limit is {schema.LARGEST_SIDE} a side")
        self._known.add(entry.image_id)
        crc = 0
        for name, piece in zip(schema.data_names(self.strides), self._pieces(entry.mask), strict=True):
            self._bytes[name] += piece
            crc = zlib.crc32(piece, crc)
        self._bytes["image/name_bytes"] += entry.file_name.encode("utf-8", "surrogatepass")
        row = {
            "image/id": entry.image_id,
            "image/height": height,
            "image/width": width,
            "image/object_pixels": entry.object_pixels,
            "image/n_objects": entry.n_objects,
            "image/flags": int(entry.flags),
            "image/crc32": crc,
            "image/name_offsets": len(self._bytes["image/name_bytes"]),
            "mask/rle_offsets": len(self._bytes[schema.RLE]),
        }
        row |= {schema.offsets_name(k): len(self._bytes[schema.bits_name(k)]) for k in self.strides}
        for name, value in row.items():
            self._columns[name].append(value)

    def _pieces(self, mask: np.ndarray) -> list[bytes]:
        grids = pyramid.levels(mask, self.strides)
        return [rle.encode(mask), *(np.packbits(grid).tobytes() for grid in grids.values())]

    @property
    def index(self) -> dict[str, np.ndarray]:
        """The index data sets of what was added."""
        result = {}
        for name in schema.index_names(self.strides):
            if name == "image/name_bytes":
                result[name] = np.frombuffer(bytes(self._bytes[name]), dtype=np.uint8)
            else:
                start = [0] if name.endswith("offsets") else []
                result[name] = np.array([*start, *self._columns[name]], dtype=schema.dtype_of(name))
        return result

    def read_all(self, name: str) -> Iterator[np.ndarray]:
        """The bytes of one data set."""
        yield np.frombuffer(bytes(self._bytes[name]), dtype=np.uint8)


class LabelWriter:
    """Makes a store out of images added one by one; the file appears, verified, when the `with` block ends well.

    An exception inside the block leaves what was there before.
    """

    def __init__(self, path: str | Path, header: StoreHeader, report: bytes = b"{}") -> None:
        self.path, self.header, self.report = Path(path), header, report
        self._rows = Rows(header.strides)

    def __enter__(self) -> LabelWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def add(self, entry: LabelEntry) -> None:
        """Add one image. Raises ValueError for an id that was added before."""
        self._rows.add(entry)

    def close(self) -> None:
        """Write, verify and publish, see `publish`."""
        publish(self.path, self.header, [self._rows], self.report)


def publish(path: Path, header: StoreHeader, parts: Sequence[Part], report: bytes, progress: Progress = SILENT) -> str:
    """Write the images of `parts`, in that order, as one store at `path`; its seal.

    Raises DataError for an image that is in two parts, EnvironmentFault where it cannot be written (full disk,
    permission), IntegrityError where reading back finds something else. The earlier file stays in all three cases.
    """
    index = _joined_index(header, parts)
    attributes = header.attributes(len(index["image/id"]))
    attributes["index_sha256"] = schema.seal(attributes, index, report)
    sizes = _sizes(header, index, report)
    total = sum(size * schema.dtype_of(name).itemsize for name, size in sizes.items())

    def chunks() -> Iterator[tuple[str, np.ndarray]]:
        yield from index.items()
        for name in schema.data_names(header.strides):
            for part in parts:
                for piece in part.read_all(name):
                    yield name, piece
        yield schema.REPORT, np.frombuffer(report, dtype=np.uint8)

    with atomic_path(path) as temp:
        write = _write_through_memory if total <= IN_MEMORY_LIMIT else _write_to_disk
        write(temp, Content(attributes, sizes, chunks()))
        with LabelStore(temp) as store:
            store.verify(progress)
    return attributes["index_sha256"]


@dataclass(frozen=True, eq=False)
class Content:
    """What goes into a file: attributes, the length of every data set in order, and all bytes in pieces by data set."""

    attributes: dict[str, str]
    sizes: dict[str, int]
    chunks: Iterator[tuple[str, np.ndarray]]


def _joined_index(header: StoreHeader, parts: Sequence[Part]) -> dict[str, np.ndarray]:
    index = schema.concatenate([part.index for part in parts] or [Rows(header.strides).index])
    ids, counts = np.unique(index["image/id"], return_counts=True)
    if len(ids) and counts.max() > 1:
        raise DataError(f"image {ids[counts.argmax()]} is there twice")
    return index


def _sizes(header: StoreHeader, index: dict[str, np.ndarray], report: bytes) -> dict[str, int]:
    """The length of every data set, in the order in which they are laid out in the file."""
    sizes = {name: len(column) for name, column in index.items()}
    sizes[schema.RLE] = int(index["mask/rle_offsets"][-1])
    sizes |= {schema.bits_name(k): int(index[schema.offsets_name(k)][-1]) for k in header.strides}
    sizes[schema.REPORT] = len(report)
    return sizes


def _write_through_memory(temp: Path, content: Content) -> None:
    memory = io.BytesIO()
    with _created(memory) as file:
        _fill(file, content, content.chunks)
    with temp.open("wb") as stream:
        stream.write(memory.getbuffer())


def _write_to_disk(temp: Path, content: Content) -> None:
    with GuardedFile(temp) as guarded, _created(guarded) as file:
        _fill(file, content, guarded.watched(content.chunks))


def _created(backing: io.BytesIO | GuardedFile) -> h5py.File:
    """A new HDF5 file in `backing`. One driver for both, since every driver lays a file out in its own way."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, backing)
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)  # checksummed metadata
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_attr_phase_change(64, 60)  # all attributes in the root's own header
    _without_times(creation)
    return h5py.File(h5py.h5f.create(b"label store", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


def _without_times(properties: h5py.h5p.PropOCID) -> None:
    properties.set_obj_track_times(False)


def _fill(file: h5py.File, content: Content, chunks: Iterable[tuple[str, np.ndarray]]) -> None:
    """Groups, data sets of their final size, attributes, bytes, and last of all `complete`."""
    attributes, sizes = content.attributes, content.sizes
    group_plan = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    _without_times(group_plan)
    for group in sorted({group for name in sizes for group in _parents(name)}):
        h5py.h5g.create(file.id, group.encode(), gcpl=group_plan)
    data_sets = {name: _data_set(file, name, size) for name, size in sizes.items()}
    for name in sorted(attributes):
        file.attrs[name] = np.bytes_(attributes[name].encode())
    positions = dict.fromkeys(sizes, 0)
    for name, piece in chunks:
        start, positions[name] = positions[name], positions[name] + len(piece)
        if len(piece):
            data_sets[name][start : positions[name]] = piece
    if positions != sizes:
        raise IntegrityError("a part of the label store gave fewer bytes than its index says")
    file.attrs["complete"] = np.bytes_(b"yes")
    file.flush()


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _data_set(file: h5py.File, name: str, size: int) -> h5py.Dataset:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    _without_times(plan)
    kind = h5py.h5t.py_create(schema.dtype_of(name))
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple((size,)), plan))


def merge_stores(paths: Sequence[str | Path], out: str | Path, progress: Progress = SILENT) -> str:
    """Join the shards 1/n ... n/n into one store, the same bytes as a build in one go; its seal.

    Raises IntegrityError for a damaged shard, and for shards that are not of one build or not all there.
    """
    stores = sorted((LabelStore(path) for path in paths), key=lambda store: _part_of(store)[0])
    try:
        first = stores[0]
        for store in stores[1:]:
            if (
                replace(store.header, part=first.header.part) != first.header
                or store.report_bytes != first.report_bytes
            ):
                raise IntegrityError(f"not a shard of the same build as {first.path}", where=str(store.path))
        numbers, total = [_part_of(store)[0] for store in stores], _part_of(first)[1]
        if numbers != list(range(1, total + 1)) or any(_part_of(store)[1] != total for store in stores):
            have = ", ".join(store.header.part for store in stores)
            raise IntegrityError(f"these are not the shards 1/{total} to {total}/{total}, but {have}")
        header = replace(first.header, part=schema.WHOLE)
        return publish(Path(out), header, stores, first.report_bytes, progress)
    finally:
        for store in stores:
            store.close()


def _part_of(store: LabelStore) -> tuple[int, int]:
    number, total = store.header.part.split("/")
    return int(number), int(total)
