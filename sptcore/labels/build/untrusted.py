"""Verifying a store from somebody else: only a child process opens it, and only that can be crashed by it."""

from __future__ import annotations

import multiprocessing
import resource
import time
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sptcore.data.records import DatasetIndex
from sptcore.data.workers import sigint_held_back
from sptcore.errors import IntegrityError, SptError
from sptcore.labels.build.check import verify_labels
from sptcore.progress import SILENT, Progress

SILENT_FOR = 120.0  # seconds without a sign of life, after which reading is taken for endless
_POLL = 0.5
_TOLD_EVERY = 64  # images


def verify_untrusted(path: str | Path, index: DatasetIndex, *, progress: Progress = SILENT) -> int:
    """As `verify_labels`, in a child process; the number of images compared.

    Raises what it raises, and IntegrityError where reading the file killed the child or does not end.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_verify, args=(theirs, Path(path), index), daemon=True)
    with sigint_held_back():
        child.start()
    theirs.close()
    try:
        return _listen(child, ours, Path(path), progress)
    finally:
        child.kill()
        child.join()
        ours.close()


def _listen(child: BaseProcess, pipe: Connection, path: Path, progress: Progress) -> int:
    last = time.monotonic()
    while True:
        if pipe in connection.wait([pipe, child.sentinel], timeout=_POLL):
            try:
                call, *arguments = pipe.recv()
            except (EOFError, OSError) as error:
                raise _death(child, path) from error
            if call == "done":
                return arguments[0]
            if call == "failed":
                raise arguments[0]
            getattr(progress, call)(*arguments)
            last = time.monotonic()
        elif not child.is_alive() and not pipe.poll():
            raise _death(child, path)
        elif time.monotonic() - last > SILENT_FOR:
            raise IntegrityError("reading the label store does not end: damaged or hostile", where=str(path))


def _death(child: BaseProcess, path: Path) -> IntegrityError:
    child.join()
    message = f"reading the label store ended its process (exit code {child.exitcode}): damaged or hostile"
    return IntegrityError(message, where=str(path), hint="do not open this file; build the labels from the annotations")


class _Teller:
    """Tells the parent of progress, a few images at a time."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._untold = 0

    def start(self, title: str, total: int | None, *, done: int = 0) -> None:
        self._pipe.send(("start", title, total))

    def advance(self, steps: int = 1, **fields: object) -> None:
        self._untold += steps
        if self._untold >= _TOLD_EVERY:
            self._tell()

    def finish(self) -> None:
        self._tell()
        self._pipe.send(("finish",))

    def note(self, message: str) -> None:
        self._pipe.send(("note", message))

    def warn(self, message: str) -> None:
        self._pipe.send(("warn", message))

    def _tell(self) -> None:
        self._pipe.send(("advance", self._untold))
        self._untold = 0


def _verify(pipe: Any, path: Path, index: DatasetIndex) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = ("done", verify_labels(path, index, progress=_Teller(pipe)))
    except SptError as error:
        answer = ("failed", error)
    pipe.send(answer)
