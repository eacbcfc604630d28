"""Publishing files: whole or not at all.

Every output of the project passes through here: written beside its target, flushed to the disk, renamed over it, the
folder flushed too. A reader sees the old file or the new one, never a part of one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sptcore.errors import EnvironmentFault

TEMP_MARK = ".spt-tmp-"
MANY = 256  # files; from here on flushing one by one takes longer than flushing the file system


def write_atomically(path: Path, content: bytes | str) -> None:
    """Publish `content` (text as UTF-8) at `path`, replacing what is there.

    Raises EnvironmentFault (full disk, missing folder, no permission) with the earlier file untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as temp, temp.open("wb") as stream:
        stream.write(data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving, fsync it and rename it over `path`.

    On any exception the temporary file is removed and `path` stays as it was. OSError becomes EnvironmentFault.
    """
    path = Path(path)
    temp = path.with_name(f"{TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}-{path.name}"[:255])
    try:
        yield temp
        fsync(temp)
        os.replace(temp, path)
        fsync(path.parent)
    except OSError as error:
        raise as_fault(error, path) from error
    finally:
        with suppress(OSError):
            temp.unlink()


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` on leaving; removed on any exception.

    With `replace`, a folder at `path` is swapped for the new one (in one step where the system can) and then removed.
    Raises EnvironmentFault when `path` exists and `replace` is off.
    """
    path = Path(path)
    temp = path.with_name(f"{TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}-{path.name}"[:255])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp.mkdir()
        yield temp
        _flush_tree(temp)
        _put_in_place(temp, path, replace)
        fsync(path.parent)
    except OSError as error:
        raise as_fault(error, path) from error
    finally:
        if temp.exists():
            shutil.rmtree(temp, ignore_errors=True)


def _flush_tree(root: Path) -> None:
    """Flush a folder and all in it; one call for the whole file system where there are more than MANY files."""
    below = [(Path(folder), names) for folder, _, names in os.walk(root)]
    if sum(len(names) for _, names in below) > MANY and _sync_file_system(root):
        return
    for folder, names in below:
        for name in names:
            fsync(folder / name)
        fsync(folder)


def _sync_file_system(path: Path) -> bool:
    """Flush the file system that holds `path`; False where the system has no such call. Raises OSError."""
    import ctypes

    try:
        sync = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, TypeError):  # no such call outside Linux
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        if sync(handle):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(handle)
    return True


def _put_in_place(temp: Path, path: Path, replace: bool) -> None:
    if not path.exists():
        os.rename(temp, path)
        return
    if not replace:
        raise EnvironmentFault("the output exists already", where=str(path), hint="add --force to replace it")
    if _exchange(temp, path):
        shutil.rmtree(temp, ignore_errors=True)
        return
    aside = path.with_name(f"{TEMP_MARK}{os.getpid()}-{secrets.token_hex(4)}-old-{path.name}"[:255])
    os.rename(path, aside)
    try:
        os.rename(temp, path)
    except OSError:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step, so that there is no moment without either; False where the system cannot."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no such call outside Linux
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk; links and special files are left alone."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_fault(error: OSError, path: Path) -> EnvironmentFault:
    """The EnvironmentFault a person reads for an OSError met while writing `path`."""
    elsewhere = "write elsewhere (--out; SPT_CACHE moves the cache)"
    hints = {
        errno.ENOSPC: f"free some space on this disk, or {elsewhere}",
        errno.EDQUOT: f"your disk quota is used up: free some space, or {elsewhere}",
        errno.EACCES: f"you may not write there: {elsewhere}",
        errno.EPERM: f"you may not write there: {elsewhere}",
        errno.EROFS: f"this disk is read-only: {elsewhere}",
        errno.ENOTDIR: f"a part of this path is a file: {elsewhere}",
        errno.ENOENT: f"make its folder first: mkdir -p {path.parent}",
        errno.EXDEV: "keep the output on one disk",
    }
    reason = error.strerror or str(error)
    return EnvironmentFault(f"cannot write: {reason}", where=str(path), hint=hints.get(error.errno or 0))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
