"""Work on many blocks: in this process, in fresh processes, or on any `concurrent.futures` executor (Dask's too).

Worker processes are started fresh (spawn), never see Ctrl-C (the parent stops them) and end with their parent, however
that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from sptcore.errors import EnvironmentFault, ResourceError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")
FEWER_JOBS = "use fewer --jobs; the system may have run out of memory"
AHEAD = 2  # blocks a worker may have waiting: enough to keep it busy, few enough to keep memory small


def map_in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    describe: Callable[[Item], str] = repr,
) -> Iterator[Result]:
    """`work(item)` of every item, in order; with `jobs` processes, or on `executor`, a few items ahead of the reader.

    Raises what `work` raises, and ResourceError naming the items under work when a process dies. Leaving the iterator
    early stops the processes.
    """
    if executor is not None:
        yield from _ahead(executor, work, items, AHEAD * max(jobs, os.cpu_count() or 1), describe)
    elif jobs > 1:
        with _processes(jobs) as pool:
            yield from _ahead(pool, work, items, AHEAD * jobs, describe)
    else:
        yield from map(work, items)


def usable_processors() -> int:
    """The processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def named_executor(name: str) -> Executor | None:
    """None for "local", the executor of the Dask scheduler for "dask://HOST:PORT".

    Raises UsageError for another name, EnvironmentFault where Dask is not installed or no scheduler answers.
    """
    if name == "local":
        return None
    host = name.removeprefix("dask://")
    if host == name or ":" not in host:
        raise UsageError(f"no executor {name!r}", hint="local, or dask://HOST:PORT")
    try:
        from distributed import Client  # type: ignore[import-not-found]
    except ImportError as error:
        raise EnvironmentFault("Dask is not installed", hint="pip install 'spt[cluster]'") from error
    try:
        return Client(f"tcp://{host}", timeout=10).get_executor()
    except OSError as error:
        raise EnvironmentFault(f"no Dask scheduler answers: {error}", where=name) from error


def _ahead(
    executor: Executor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    window: int,
    describe: Callable[[Item], str],
) -> Iterator[Result]:
    waiting: deque[tuple[str, Future[Result]]] = deque()
    source = iter(items)
    try:
        while True:
            for item in source:
                with sigint_held_back():  # the first submission starts the processes
                    waiting.append((describe(item), executor.submit(work, item)))
                if len(waiting) >= window:
                    break
            if not waiting:
                return
            yield waiting[0][1].result()
            waiting.popleft()
    except Exception as error:
        gone = isinstance(error, (BrokenExecutor, CancelledError))  # a scheduler that ends cancels what it had
        if not gone and not type(error).__module__.startswith("distributed."):
            raise
        lost = [name for name, future in waiting if not _is_result(future)]
        under_work = f"; under work were {'; '.join(lost[:3])}" if lost else ""
        raise ResourceError(f"a worker process died{under_work}", hint=FEWER_JOBS) from error
    finally:
        for _, future in waiting:
            future.cancel()


def _is_result(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


@contextmanager
def _processes(jobs: int) -> Iterator[Executor]:
    """A pool whose processes are gone on leaving, at once when left by an exception."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the parent process to end, then end this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextmanager
def sigint_held_back() -> Iterator[None]:
    """What is started meanwhile never sees Ctrl-C, not even while it imports; for us it comes a little later."""
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
