"""A Progress that remembers, and can act at a chosen image."""

from __future__ import annotations

from collections.abc import Callable


class Listener:
    """Keeps notes, warnings and the steps of each stage; calls `at_step(n)` after each advance, n over all stages."""

    def __init__(self, at_step: Callable[[int], None] | None = None) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.stages: dict[str, int] = {}
        self.steps = 0
        self._stage = ""
        self.at_step = at_step

    def start(self, title: str, total: int | None, *, done: int = 0) -> None:
        self._stage = title
        self.stages.setdefault(title, 0)

    def advance(self, steps: int = 1, **fields: object) -> None:
        self.steps += steps
        self.stages[self._stage] += steps
        if self.at_step is not None:
            self.at_step(self.steps)

    def finish(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
