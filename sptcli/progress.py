"""The listeners of a long job: a bar on a terminal, a line every ten seconds elsewhere, JSON lines, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from sptcli.console import make_console, printable, to_plain
from sptcli.flags import Flags
from sptcore.progress import SILENT, Progress

INTERVAL = 10.0  # seconds between two plain lines
UNITS = {"img_per_s": "img/s", "memory_mb": "MB"}
RATIO = "select_ratio.stage"


def choose_progress(flags: Flags, *, leader: bool = True, stream: TextIO | None = None) -> Progress:
    """The listener for `--progress` and `--quiet`; a process that is not rank 0 stays silent."""
    out: TextIO = sys.stderr if stream is None else stream
    if not leader:
        return SILENT
    mode = flags.progress
    if mode == "auto":
        mode = "bar" if _draws(out) else "plain"
    if flags.quiet or mode == "off":
        return Remarks(out, quiet=flags.quiet)
    kinds: dict[str, type[Remarks]] = {"bar": BarProgress, "plain": PlainProgress, "json": JsonProgress}
    return kinds[mode](out)


def _draws(stream: TextIO) -> bool:
    import os

    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


@dataclass
class Stage:
    """One running stage: title, total if known, what is done (`before` it began, too) and since when (seconds).

    `told`: how much of it the last line said; None before the first.
    """

    title: str
    total: int | None
    since: float
    last: float
    done: int = 0
    before: int = 0
    told: int | None = None
    fields: dict[str, object] = field(default_factory=dict)
    task: Any = None

    def left(self, now: float) -> float | None:
        """Seconds that the rest will take at the pace so far; None without a total or a pace."""
        own = self.done - self.before
        return (now - self.since) / own * (self.total - self.done) if self.total and own > 0 else None


class Remarks:
    """Shows remarks and warnings, no progress; the base of the others."""

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = make_console(stream)
        self.stages: list[Stage] = []
        self.clock = clock
        self.quiet = quiet

    def start(self, title: str, total: int | None, *, done: int = 0) -> None:
        now = self.clock()
        self.stages.append(Stage(title, total, since=now, last=now, done=done, before=done))

    def advance(self, steps: int = 1, **fields: object) -> None:
        if self.stages:
            self.stages[-1].done += steps
            self.stages[-1].fields |= fields

    def finish(self) -> None:
        if self.stages:
            self.stages.pop()

    def close(self) -> None:
        """Forget every running stage."""
        self.stages.clear()

    def note(self, message: str) -> None:
        if not self.quiet:
            self._say(message)

    def warn(self, message: str) -> None:
        self._say(f"warning: {message}")

    def end(self, artefacts: Mapping[str, object], next_command: str | None) -> None:
        """The paths a command wrote, and the line `next: ...`."""
        if self.quiet:
            return
        for name, value in artefacts.items():
            self._say(f"{name}: {value}")
        if next_command:
            self._say(f"next: {next_command}")

    def _say(self, line: str) -> None:
        self.console.print(printable(line, lines=True), soft_wrap=True)


class PlainProgress(Remarks):
    """A line every ten seconds for each stage, and one at the end of a stage that had lines."""

    def advance(self, steps: int = 1, **fields: object) -> None:
        super().advance(steps, **fields)
        if self.stages and self.clock() - self.stages[-1].last >= INTERVAL:
            self._tell(self.stages[-1])

    def finish(self) -> None:
        if self.stages and self.stages[-1].told not in (None, self.stages[-1].done):
            self._tell(self.stages[-1])
        super().finish()

    def _tell(self, stage: Stage) -> None:
        stage.last, stage.told = self.clock(), stage.done
        self._say(self._line(stage))

    def _line(self, stage: Stage) -> str:
        seconds = self.clock() - stage.since
        total = f"/{stage.total} ({100 * stage.done // max(stage.total, 1)}%)" if stage.total else ""
        left = stage.left(self.clock())
        ahead = f", {_duration(left)} left" if left is not None and left >= 0.5 else ""
        return f"{stage.title}: {stage.done}{total} in {_duration(seconds)}{ahead}{_fields(stage.fields)}"


class JsonProgress(Remarks):
    """One JSON object a line on stderr: stage begins, advances (at most one a second), ends; notes and warnings."""

    def start(self, title: str, total: int | None, *, done: int = 0) -> None:
        super().start(title, total, done=done)
        self._event("start")

    def advance(self, steps: int = 1, **fields: object) -> None:
        super().advance(steps, **fields)
        if self.stages and self.clock() - self.stages[-1].last >= 1.0:
            self.stages[-1].last = self.clock()
            self._event("advance")

    def finish(self) -> None:
        if self.stages:
            self._event("finish")
        super().finish()

    def note(self, message: str) -> None:
        self._write({"event": "note", "message": message})

    def warn(self, message: str) -> None:
        self._write({"event": "warning", "message": message})

    def end(self, artefacts: Mapping[str, object], next_command: str | None) -> None:
        self._write({"event": "end", "artefacts": dict(artefacts), "next": next_command})

    def _event(self, name: str) -> None:
        stage = self.stages[-1]
        seconds = round(self.clock() - stage.since, 3)
        event = {"event": name, "stage": stage.title, "done": stage.done, "total": stage.total, "seconds": seconds}
        left = stage.left(self.clock())
        self._write({**event, **({} if left is None else {"seconds_left": round(left, 1)}), **stage.fields})

    def _write(self, event: dict[str, object]) -> None:
        self.console.file.write(json.dumps(to_plain(event)) + "\n")
        self.console.file.flush()


class BarProgress(Remarks):
    """A bar a stage, drawn by rich, what there is to watch on lines of its own below; remarks scroll above them."""

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream, quiet=quiet, clock=clock)
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Bars(Progress):
            def get_renderables(self) -> Iterator[Any]:
                yield self.make_tasks_table(self.tasks)
                yield from (Text(task.fields["extra"]) for task in self.tasks if task.fields["extra"])

        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )

    def start(self, title: str, total: int | None, *, done: int = 0) -> None:
        super().start(title, total, done=done)
        self.bars.start()
        self.stages[-1].task = self.bars.add_task(printable(title), total=total, completed=done, extra="")

    def advance(self, steps: int = 1, **fields: object) -> None:
        super().advance(steps, **fields)
        if self.stages:
            extra = _fields(self.stages[-1].fields).lstrip(", ")
            self.bars.update(self.stages[-1].task, advance=steps, extra=extra)

    def finish(self) -> None:
        if self.stages:
            self.bars.remove_task(self.stages[-1].task)
        super().finish()
        if not self.stages:
            self.bars.stop()

    def close(self) -> None:
        super().close()
        self.bars.stop()


def _fields(fields: dict[str, object]) -> str:
    return "".join(f", {printable(_in_words(name, value))}" for name, value in fields.items())


def _in_words(name: str, value: object) -> str:
    """A column of metrics and its value in a line: `loss_select 0.65`, `select ratio s3 1.00`, `5.2 img/s`."""
    if name in UNITS:
        return f"{value} {UNITS[name]}"
    if name.startswith(RATIO) and isinstance(value, float):
        return f"select ratio s{name.removeprefix(RATIO)} {value:.2f}"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
