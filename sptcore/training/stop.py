"""When to stop early: a signal, or the end of the time that was given. The loop asks between steps."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_HEEDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Set by a signal or by the clock; `cause` is None while training may go on."""

    def __init__(self, time_limit: float | None = None) -> None:
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._signal: signal.Signals | None = None
        self._told = False

    @property
    def cause(self) -> str | None:
        """SIGTERM, SIGUSR1, SIGINT, "time limit", or None."""
        if self._signal is None:
            return "time limit" if self._deadline is not None and time.monotonic() >= self._deadline else None
        self._told = True
        return self._signal.name

    @property
    def untold(self) -> signal.Signals | None:
        """A signal that came when nobody asked for the cause any more, or None."""
        return None if self._told else self._signal

    def by_signal(self, number: int, frame: object) -> None:
        """Signal handler: note the first signal; a second Ctrl-C stops at once."""
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = self._signal or signal.Signals(number)


@contextmanager
def stop_requests(time_limit: float | None = None) -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGUSR1 and Ctrl-C into a StopRequest while inside; off the main thread only the clock counts.

    A signal after the last question, in the last saving of a run, is handed on to whoever heeded it before.
    """
    request = StopRequest(time_limit)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.by_signal) for number in _HEEDED}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.untold is not None and callable(before[request.untold]):
        signal.raise_signal(request.untold)


def parse_duration(text: str) -> float:
    """Seconds in `3h30m`, `90m`, `45s` or a plain number of seconds. Raises ValueError for anything else."""
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().lower())
    parts = [float(part or 0) for part in match.groups()] if match else []
    if not parts or not any(parts):
        raise ValueError(f"{text!r} is not a duration such as 3h30m, 90m or 45s")
    return sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
