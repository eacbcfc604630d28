"""Opening a label store without trusting it: what may be in the file, and where its bytes lie.

HDF5 only tells the way. Names, link kinds, types, shapes and places are held against the schema before anything is read
or reserved; the bytes themselves are then read straight from the file, which works across forks and threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from sptcore.errors import DataError, EnvironmentFault, IntegrityError
from sptcore.labels.store import schema

REBUILD = "build it again: spt make-labels DATA --out {path} --force"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LONGEST_ATTRIBUTE = 1 << 16


class Fault(Exception):
    """One thing that is wrong with a file, and in which data set or attribute."""


@dataclass(frozen=True)
class Extent:
    """Where a data set lies: its bytes are [start, start + length x itemsize) of the file."""

    start: int
    length: int
    dtype: np.dtype

    @property
    def n_bytes(self) -> int:
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """The attributes of a store, its header, and the extent of every data set."""

    attributes: dict[str, str]
    header: schema.StoreHeader
    extents: dict[str, Extent]


def open_layout(path: Path) -> tuple[int, Layout]:
    """A file descriptor of the store (the caller closes it) and its layout, checked.

    Raises DataError where there is no file, EnvironmentFault where it cannot be read, IntegrityError where it is no
    store of this schema.
    """
    with faults_of(path):
        _check_signature(path)
        with _opened(path) as file:
            attributes = _attributes(file)
            header = _checked_header(attributes)
            extents = dict(_extents(file, header.strides, closed=_minor(attributes) <= schema.VERSION[1]))
            n_images = int(attributes["n_images"])
            _check_lengths(extents, n_images, header.strides)
            return os.dup(file.id.get_vfd_handle()), Layout(attributes, header, extents)


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """What is wrong with the file at `path`, as the errors a person reads."""
    try:
        yield
    except Fault as fault:
        raise IntegrityError(str(fault), where=str(path), hint=REBUILD.format(path=path)) from fault
    except FileNotFoundError as error:
        hint = "build it: spt make-labels DATA"
        raise DataError("there is no label store", where=str(path), hint=hint) from error
    except (PermissionError, IsADirectoryError) as error:
        raise EnvironmentFault(f"cannot read: {error.strerror}", where=str(path)) from error


def _check_signature(path: Path) -> None:
    """Only regular files, HDF5 from the first byte, with the checksummed superblock that stores are written with."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not path.is_file():
            raise Fault("the label store is no regular file")
        start = os.read(handle, 9)
    finally:
        os.close(handle)
    if start[:8] != _SIGNATURE:
        raise Fault("this is no HDF5 file, so no label store")
    if start[8:] not in (b"\x02", b"\x03"):
        raise Fault("the HDF5 superblock is not of version 2 or 3: this file was not written by spt, or it is damaged")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file in HDF5, read-only, without a lock; whatever HDF5 stumbles over inside becomes a Fault."""
    try:
        with h5py.File(path, "r", driver="sec2", locking=False) as file:
            yield file
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise Fault(f"the label store is damaged: HDF5 says {str(error)[:200]!r}") from error


def _attributes(file: h5py.File) -> dict[str, str]:
    """The root's attributes as text, only those of the schema; each must be one byte string of fixed length."""
    result = {}
    for name in schema.ATTRIBUTES:
        key = name.encode()
        if not h5py.h5a.exists(file.id, key):
            raise Fault(f"attribute {name!r} is missing" + (" (an unfinished build)" if name == "complete" else ""))
        attribute = h5py.h5a.open(file.id, key)
        kind = attribute.get_type()
        if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str() or attribute.shape != ():
            raise Fault(f"attribute {name!r} is not a byte string of fixed length")
        if kind.get_size() > _LONGEST_ATTRIBUTE:
            raise Fault(f"attribute {name!r} is too long")
        value = np.empty((), dtype=f"S{kind.get_size()}")
        attribute.read(value)
        result[name] = value.item().decode("utf-8")
    return result


def _checked_header(attributes: dict[str, str]) -> schema.StoreHeader:
    if attributes["schema"] != schema.SCHEMA:
        raise Fault(f"the schema is {attributes['schema']!r}, not {schema.SCHEMA!r}")
    version = attributes["schema_version"]
    if version.split(".")[0] != str(schema.VERSION[0]):
        raise Fault(f"the schema version is {version}; this spt reads {schema.VERSION[0]}.x")
    try:
        _minor(attributes)
        header = schema.StoreHeader.of(attributes)
        expected = header.attributes(int(attributes["n_images"]))
    except (KeyError, IndexError, ValueError, RecursionError) as error:
        raise Fault(f"the attributes make no sense: {error}") from error
    for name in expected.keys() - {"schema_version"}:
        if attributes[name] != expected[name]:
            raise Fault(f"attribute {name!r} is {attributes[name]!r}, expected {expected[name]!r}")
    return header


def _minor(attributes: dict[str, str]) -> int:
    return int(attributes["schema_version"].split(".")[1])


def _extents(file: h5py.File, strides: tuple[int, ...], *, closed: bool) -> Iterator[tuple[str, Extent]]:
    """Every data set of the schema; `closed`: there must be no others (a later minor version may add some)."""
    size = os.fstat(file.id.get_vfd_handle()).st_size
    names = [*schema.index_names(strides), *schema.data_names(strides), schema.REPORT]
    groups = {"/".join(parts[:depth]) for parts in (n.split("/") for n in names) for depth in range(1, len(parts))}
    for group in ["", *sorted(groups)]:
        _check_group(file, group, {name for name in [*names, *groups] if name.rpartition("/")[0] == group}, closed)
    for name in names:
        yield name, _extent(file, name, size)


def _check_group(file: h5py.File, group: str, expected: set[str], closed: bool) -> None:
    node = file[f"/{group}"]
    if not isinstance(node, h5py.Group):
        raise Fault(f"/{group} is not a group")
    if closed and len(node) > len(expected):
        raise Fault(f"group /{group} has members that are no part of the schema")
    for name in sorted(expected):
        link = node.get(name.rpartition("/")[2], getlink=True)
        if link is None:
            raise Fault(f"data set or group {name!r} is missing")
        if not isinstance(link, h5py.HardLink):
            raise Fault(f"{name!r} is a link to somewhere else")


def _extent(file: h5py.File, name: str, file_size: int) -> Extent:
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise Fault(f"{name!r} is not a data set")
    node = found.id
    plan, kind = node.get_create_plist(), node.get_type()
    if plan.get_layout() != h5py.h5d.CONTIGUOUS or plan.get_nfilters() or plan.get_external_count():
        raise Fault(f"data set {name!r} is not contiguous inside the file")
    expected = schema.dtype_of(name)
    if not isinstance(kind, h5py.h5t.TypeIntegerID) or kind.dtype != expected:
        raise Fault(f"data set {name!r} is not of type {expected.str}")
    if len(node.shape) != 1:
        raise Fault(f"data set {name!r} has the shape {node.shape}, expected one dimension")
    extent = Extent(node.get_offset() or 0, int(node.shape[0]), expected)
    if extent.n_bytes and (not extent.start or extent.start + extent.n_bytes > file_size):
        raise Fault(f"data set {name!r} claims {extent.n_bytes} bytes at {extent.start}, the file has {file_size}")
    return extent


def _check_lengths(extents: dict[str, Extent], n_images: int, strides: tuple[int, ...]) -> None:
    for name in schema.index_names(strides):
        if name == "image/name_bytes":
            continue
        expected = n_images + 1 if name.endswith("offsets") else n_images
        if extents[name].length != expected:
            raise Fault(f"data set {name!r} has {extents[name].length} entries, expected {expected}")
