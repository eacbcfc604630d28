"""An annotation file read whole: its bytes, its fingerprint, and whether it is still the same file; marks of many."""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from sptcore.errors import DataError, EnvironmentFault, IntegrityError, ResourceError

MAX_BYTES = 8 << 30

Mark = tuple[int, int, int, int]


class SourceFile:
    """The bytes of an annotation file as they were at one moment."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises DataError (missing, not a file, over 8 GiB), ResourceError, IntegrityError (changing)."""
        self.path = Path(path)
        self.data, self._status = _read(self.path)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the bytes that were read, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def check_unchanged(self) -> None:
        """Raise IntegrityError when the file on disk is no longer the one that was read."""
        now = _status_now(self.path)
        if mark_of(now) != mark_of(self._status):
            raise _changed(self.path)

    def check_utf8(self) -> None:
        """Raise DataError with the byte offset of the first byte that is no UTF-8."""
        if self.data.isascii():
            return
        decoder, step = codecs.getincrementaldecoder("utf-8")(), 1 << 20
        for start in range(0, len(self.data) or 1, step):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(self.data[start : start + step], final=start + step >= len(self.data))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"invalid UTF-8 at byte {start - pending + error.start}", where=str(self.path)
                ) from error


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file", where=str(path))
        if status.st_size > MAX_BYTES:
            raise DataError(f"the file is larger than 8 GiB ({status.st_size} bytes)", where=str(path))
        with path.open("rb") as stream:
            data = stream.read()
            after = os.fstat(stream.fileno())
    except FileNotFoundError as error:
        raise DataError("the annotation file is missing", where=str(path)) from error
    except PermissionError as error:
        raise EnvironmentFault("no permission to read the annotation file", where=str(path)) from error
    except MemoryError as error:
        raise ResourceError(memory_advice(path), where=str(path)) from error
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    if mark_of(after) != mark_of(status) or len(data) != status.st_size:
        raise _changed(path)
    return data, status


def memory_advice(path: Path) -> str:
    """How much memory a file of this size needs: its bytes, tables of positions, and blocks under work."""
    size = path.stat().st_size
    return f"not enough memory: this file needs about {(1.5 * size + (150 << 20)) / (1 << 30):.1f} GiB"


def mark_of(status: os.stat_result) -> Mark:
    """What of a file's status changes with its content: device, inode, size in bytes, time of change in ns."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_marks(marks: Mapping[str, Mark]) -> None:
    """Raise IntegrityError when one of many source files, marked by path when it was read, has changed since."""
    for path, mark in marks.items():
        if mark_of(_status_now(path)) != mark:
            raise _changed(path)


def _status_now(path: str | Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise IntegrityError("the file has gone while it was being read", where=str(path)) from error


def _changed(path: str | Path) -> IntegrityError:
    return IntegrityError(
        "the file changed while it was being read", where=str(path), hint="wait until it is complete, then run again"
    )
