"""How a long job tells of its progress without knowing who listens; the command line draws it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Receives the progress of a job. `sptcli.console` has the one that draws; `SILENT` listens to nothing."""

    def start(self, title: str, total: int | None, *, done: int = 0) -> None:
        """A new stage begins: `total` steps, or None when their number is unknown; `done` of them were done before."""

    def advance(self, steps: int = 1, **fields: object) -> None:
        """`steps` more are done; `fields` are shown beside the bar (loss, img/s ...)."""

    def finish(self) -> None:
        """The stage is done."""

    def note(self, message: str) -> None:
        """One line a person should read now: what was chosen, what was left out."""

    def warn(self, message: str) -> None:
        """One line a person should not miss."""


class Silent:
    """Listens to nothing."""

    def start(self, title: str, total: int | None, *, done: int = 0) -> None: ...
    def advance(self, steps: int = 1, **fields: object) -> None: ...
    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


SILENT: Progress = Silent()


def track(items: Iterable[T], progress: Progress, title: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` one by one and report each to `progress`; `total` defaults to `len(items)` where it has one."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    progress.start(title, total)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.finish()
