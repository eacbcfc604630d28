"""Worker processes that turn blocks of records into staged stores, and whose death is noticed at once.

Every process is started fresh (spawn), gets its records through a pipe, ignores Ctrl-C (the parent stops it) and ends
with its parent, however that ends.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sptcore.data.records import ImageRecord
from sptcore.data.workers import FEWER_JOBS, end_with_parent, sigint_held_back
from sptcore.errors import ResourceError
from sptcore.labels.build.recipe import Recipe
from sptcore.labels.store import StoreHeader, publish
from sptcore.labels.store.writer import Rows
from sptcore.progress import Progress

STALLED_AFTER = 600.0  # seconds without a single image from a worker
_POLL = 0.2


@dataclass(frozen=True)
class Block:
    """A run of images that is staged as one file; `repaired` are those some of whose annotations were left out."""

    path: Path
    header: StoreHeader
    report: bytes
    records: tuple[ImageRecord, ...]
    repaired: frozenset[int] = frozenset()


def build_block(recipe: Recipe, block: Block, on_image: Callable[[int], None]) -> None:
    """Write the staged store of `block`; `on_image(k)` is called before its k-th image."""
    rows = Rows(recipe.strides)
    for position, record in enumerate(block.records):
        on_image(position)
        rows.add(recipe.entry(record, repaired=record.image_id in block.repaired))
    publish(block.path, block.header, [rows], block.report)


def build_blocks(recipe: Recipe, blocks: Iterable[Block], jobs: int, progress: Progress) -> None:
    """Build all blocks, with `jobs` processes or, for one, in this process.

    Raises what a worker raised, ResourceError for a worker that died or does nothing any more.
    """
    if jobs > 1:
        with Crew(recipe, jobs) as crew:
            crew.run(iter(blocks), progress)
        return
    for block in blocks:
        build_block(recipe, block, lambda position: progress.advance() if position else None)
        progress.advance(1 if block.records else 0)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    slot: int
    block: Block | None = None
    seen: int = 0
    moved: float = 0.0


class Crew:
    """Processes that each build one block at a time."""

    def __init__(self, recipe: Recipe, jobs: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._position = context.RawArray("q", jobs)  # where each worker is in its block
        self._done = context.RawArray("q", jobs)  # images each worker has finished, all blocks together
        self._workers: list[_Worker] = []
        try:
            for slot in range(jobs):
                self._workers.append(self._start(context, recipe, slot))
        except BaseException:
            self.stop()
            raise

    def _start(self, context: Any, recipe: Recipe, slot: int) -> _Worker:
        ours, theirs = context.Pipe()
        arguments = (theirs, recipe, slot, self._position, self._done)
        process = context.Process(target=_work, args=arguments, name=f"spt-labels-{slot}", daemon=True)
        with sigint_held_back():
            process.start()
        theirs.close()
        return _Worker(process, ours, slot, moved=time.monotonic())

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process now."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def run(self, blocks: Iterator[Block], progress: Progress) -> None:
        """Build all `blocks`, reporting each image."""
        for worker in self._workers:
            self._give(worker, next(blocks, None))
        reported = 0
        while busy := [worker for worker in self._workers if worker.block is not None]:
            waiting = [thing for worker in busy for thing in (worker.pipe, worker.process.sentinel)]
            ready = set(connection.wait(waiting, timeout=_POLL))
            for worker in busy:
                if worker.pipe in ready:
                    self._receive(worker)
                    self._give(worker, next(blocks, None))
                elif worker.process.sentinel in ready:
                    raise self._death(worker)
                self._watch(worker)
            finished = sum(self._done)
            progress.advance(finished - reported)
            reported = finished

    def _give(self, worker: _Worker, block: Block | None) -> None:
        worker.block, worker.moved = block, time.monotonic()
        self._position[worker.slot] = -1
        if block is not None:
            try:
                worker.pipe.send(block)
            except OSError as error:
                raise self._death(worker) from error

    def _receive(self, worker: _Worker) -> None:
        try:
            failure = worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._death(worker) from error
        if failure is not None:
            raise failure

    def _watch(self, worker: _Worker) -> None:
        now, images = time.monotonic(), self._done[worker.slot]
        if images != worker.seen:
            worker.seen, worker.moved = images, now
        elif worker.block is not None and now - worker.moved > STALLED_AFTER:
            raise ResourceError(f"a worker process has stood still for {STALLED_AFTER:g} s {self._place(worker)}")

    def _death(self, worker: _Worker) -> ResourceError:
        worker.process.join()
        code = worker.process.exitcode or 0
        cause = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return ResourceError(f"a worker process died ({cause}) {self._place(worker)}", hint=FEWER_JOBS)

    def _place(self, worker: _Worker) -> str:
        position = self._position[worker.slot]
        if worker.block is None or not 0 <= position < len(worker.block.records):
            return "before its first image" if position < 0 else "while writing a block"
        record = worker.block.records[position]
        return f"at image {record.image_id} ({record.file_name!r})"


def _work(pipe: Connection, recipe: Recipe, slot: int, position: Any, done: Any) -> None:
    """The life of a worker process."""
    threading.Thread(target=end_with_parent, daemon=True).start()

    def on_image(number: int) -> None:
        position[slot] = number
        done[slot] += number > 0

    with suppress(EOFError, OSError):
        while True:
            block = pipe.recv()
            failure = None
            try:
                build_block(recipe, block, on_image)
                done[slot] += bool(block.records)
            except Exception as error:  # told to the parent, which raises it
                failure = _portable(error, block, position[slot])
            pipe.send(failure)


def _portable(error: Exception, block: Block, position: int) -> Exception:
    """The error in a form that crosses to the parent; one that is not ours also says at which image it came."""
    import pickle

    from sptcore.errors import SptError

    record = block.records[position] if 0 <= position < len(block.records) else None
    if not isinstance(error, SptError | MemoryError) and record is not None:
        error.add_note(f"at image {record.image_id} ({record.file_name!r})")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # any class may fail to pickle in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
