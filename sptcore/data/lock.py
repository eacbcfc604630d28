"""One builder at a time: a lock that dies with its owner."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sptcore.errors import EnvironmentFault
from sptcore.files import TEMP_MARK, as_fault
from sptcore.progress import SILENT, Progress

_BETWEEN_TRIES = 0.2  # seconds


@contextmanager
def build_lock(target: Path, *, wait: bool = False, progress: Progress = SILENT) -> Iterator[int]:
    """Hold the right to write `target`; yields the descriptor of the lock, which worker processes should close.

    Raises EnvironmentFault when another process holds it ("being built by pid N"), unless `wait` says to stay until it
    is done. The system lets go of a dead process's lock; what such a process left beside `target` is removed.
    """
    path = target.with_name(f".{target.name}.spt-lock")
    descriptor = _acquire(path, target, wait, progress)
    try:
        _remove_leftovers(target)
        yield descriptor
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, target: Path, wait: bool, progress: Progress) -> int:
    told = False
    while True:
        descriptor = _open(path, target)
        try:
            locked = _try_lock(descriptor, progress)
            if locked and _is_same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "?"
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if locked:
            continue  # its last owner removed it before we got the lock
        if not wait:
            hint = "wait until it is done, then run again"
            raise EnvironmentFault(f"the output is being built by pid {owner}", where=str(target), hint=hint)
        if not told:
            progress.note(f"{target} is being built by pid {owner}; waiting for it")
            told = True
        time.sleep(_BETWEEN_TRIES)


def _open(path: Path, target: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise as_fault(error, target) from error


def _try_lock(descriptor: int, progress: Progress) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        progress.warn(f"this disk has no file locks ({error.strerror}): do not build the same output twice at once")
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_leftovers(target: Path) -> None:
    pattern = re.compile(re.escape(TEMP_MARK) + r"\d+-[0-9a-f]{8}-(old-)?" + re.escape(target.name))
    for name in os.listdir(target.parent):
        if pattern.fullmatch(name):
            leftover = target.with_name(name)
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
