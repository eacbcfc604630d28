"""Unpacking official archives without trusting them: no entry lands outside its folder, none replaces a file.

Everything is unpacked beside the target first and moved over file by file, so that a reader never sees half a file.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sptcore.data.images import check_file_name
from sptcore.errors import DataError, EnvironmentFault
from sptcore.files import as_fault, atomic_folder, fsync
from sptcore.progress import SILENT, Progress, track

CHUNK = 1 << 20
_JUNK = ("__MACOSX", ".DS_Store")
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, UnicodeError)


@dataclass(frozen=True)
class Entry:
    """A file of an archive: its name, its size in bytes, and its place in the archive's own list."""

    name: str
    size: int
    place: object


class Archive:
    """A zip or tar archive, open for reading. `entries` are its checked regular files."""

    def __init__(self, path: Path, entries: list[Entry], reader: zipfile.ZipFile | tarfile.TarFile) -> None:
        self.path = path
        self.entries = entries
        self._reader = reader

    @contextmanager
    def stream(self, entry: Entry) -> Iterator[IO[bytes]]:
        """The content of a file."""
        if isinstance(self._reader, zipfile.ZipFile):
            opened: IO[bytes] | None = self._reader.open(entry.place)  # type: ignore[arg-type]
        else:
            opened = self._reader.extractfile(entry.place)  # type: ignore[arg-type]
        if opened is None:
            raise DataError(f"{entry.name!r} has no content", where=str(self.path))
        with opened:
            yield opened


@contextmanager
def open_archive(path: Path, strip: str = "") -> Iterator[Archive]:
    """Open a .zip or .tar (.gz, .bz2, .xz) with its names checked; the top folder `strip` is taken off them.

    Raises DataError for anything else, a damaged archive, an encrypted one, links, devices, and names that lead out.
    """
    if not path.is_file():
        raise DataError("the archive is missing", where=str(path))
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                yield Archive(path, _checked(path, _zip_entries(path, packed), strip), packed)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as packed:
                yield Archive(path, _checked(path, _tar_entries(path, packed), strip), packed)
        else:
            raise DataError("neither a zip nor a tar archive", where=str(path), hint="fetch the file again")
    except _BROKEN as error:
        raise DataError(f"the archive is damaged: {error}", where=str(path), hint="fetch the file again") from error


def _zip_entries(path: Path, packed: zipfile.ZipFile) -> Iterator[Entry]:
    for info in packed.infolist():
        if info.flag_bits & 1:
            raise DataError(f"{info.filename!r} is encrypted", where=str(path))
        if info.external_attr >> 16 & 0o170000 == 0o120000:
            raise DataError(f"{info.filename!r} is a link", where=str(path))
        if not info.is_dir():
            yield Entry(info.orig_filename, info.file_size, info)


def _tar_entries(path: Path, packed: tarfile.TarFile) -> Iterator[Entry]:
    for info in packed:
        if info.isdir():
            continue
        if not info.isreg():
            raise DataError(f"{info.name!r} is a link or a device", where=str(path))
        yield Entry(info.name, info.size, info)


def _checked(path: Path, entries: Iterator[Entry], strip: str) -> list[Entry]:
    checked: dict[str, Entry] = {}
    for entry in entries:
        name = entry.name.removeprefix("./")
        fault = check_file_name(name)
        if fault:
            raise DataError(f"{fault}: {entry.name[:100]!r}", where=str(path), hint="this is no official archive")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or parts[0] in _JUNK or parts[-1] in _JUNK:
            continue
        if strip and parts[0] == strip and len(parts) > 1:
            parts = parts[1:]
        final = "/".join(parts)
        if final in checked:
            raise DataError(f"{final!r} occurs twice", where=str(path))
        checked[final] = Entry(final, entry.size, entry.place)
    return list(checked.values())


def unpack(path: Path, folder: Path, *, strip: str = "", progress: Progress = SILENT) -> int:
    """Unpack an archive into `folder`; returns how many files are new there.

    Files that are there already with the same content are left alone. Raises DataError for one that differs, with
    nothing changed, EnvironmentFault when the disk is too small or cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # a link to another disk: the staging folder goes there too
    with open_archive(path, strip) as archive:
        _require_space(archive, folder)
        staged = folder.with_name(f"{folder.name}-unpacking")
        try:
            with atomic_folder(staged, replace=True) as temp:
                for entry in track(archive.entries, progress, f"unpacking {path.name}"):
                    _write(archive, entry, temp / entry.name)
            return _merge(staged, folder, path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _require_space(archive: Archive, folder: Path) -> None:
    needed = sum(entry.size for entry in archive.entries)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        message = f"{archive.path.name} unpacks to {_size(needed)}, {_size(free)} are free"
        raise EnvironmentFault(message, where=str(existing), hint="free some space, or choose another --root")


def _size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _write(archive: Archive, entry: Entry, target: Path) -> None:
    """Copy one file; never more than its stated size, whatever the stream holds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = entry.size
    with archive.stream(entry) as source, target.open("xb") as stream:
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            stream.write(chunk)
    if left:
        raise DataError(f"{entry.name!r} is not of its stated size", where=str(archive.path))


def _merge(staged: Path, folder: Path, archive: Path) -> int:
    files = [Path(base, name).relative_to(staged) for base, _, names in os.walk(staged) for name in names]
    new = [path for path in files if not os.path.lexists(folder / path)]
    for path in sorted(set(files) - set(new)):
        if not (folder / path).is_file() or not filecmp.cmp(staged / path, folder / path, shallow=False):
            raise DataError(
                f"{path} is there already with another content", where=f"{archive} -> {folder}", hint="move it away"
            )
    try:
        for path in sorted(new):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.rename(staged / path, folder / path)
        for parent in sorted({(folder / path).parent for path in new}):
            fsync(parent)
    except OSError as error:
        raise as_fault(error, folder) from error
    return len(new)
