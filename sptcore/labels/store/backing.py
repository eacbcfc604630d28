"""A file that HDF5 writes through us: a write that fails is remembered and raised by us, never met by HDF5.

HDF5 that meets a full disk leaves files that open and lie, or crashes while it closes them. Here it believes every
write and closes in good order; what it wrote is then thrown away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class GuardedFile:
    """The file object for h5py's `fileobj` driver over the new file `path`."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._position = 0
        self._failure: OSError | None = None

    def __enter__(self) -> GuardedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._descriptor)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise the OSError of the first write that failed."""
        if self._failure is not None:
            raise self._failure

    def watched(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, stopped by the OSError of a write that failed in between."""
        for item in items:
            yield item
            self.check()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position of the file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (os.fstat(self._descriptor).st_size if base is None else base)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` from the position on; what the file does not have is zero."""
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._position)
        view[:] = data.ljust(len(view), b"\0")
        self._position += len(view)
        return len(view)

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`, or remember why not."""
        view = memoryview(data).cast("B")
        start, size = self._position, len(view)
        self._position += size
        try:
            while self._failure is None and len(view):
                done = os.pwrite(self._descriptor, view, start)
                view, start = view[done:], start + done
        except OSError as error:
            self._failure = error
        return size

    def truncate(self, size: int) -> int:
        """Make the file `size` bytes long, or remember why not."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._failure = self._failure or error
        return size

    def flush(self) -> None:
        """Nothing is kept back."""
