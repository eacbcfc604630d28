"""Durations and reasons to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from sptcore.training.stop import StopRequest, parse_duration, stop_requests


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h30m", 12600), ("90m", 5400), ("45s", 45), ("45", 45), ("1d", 86400), ("2h", 7200), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "3 hours", "-5", "0", "h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


def test_the_first_signal_is_the_cause_and_a_second_ctrl_c_stops_at_once() -> None:
    with stop_requests() as stop:
        assert stop.cause is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.cause == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            stop.by_signal(signal.SIGINT, None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.cause == "SIGINT"


@pytest.fixture
def _own_handlers() -> Iterator[None]:
    """Python's own handler of Ctrl-C: whatever ran before in this process may have left another."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_handlers")
def test_a_signal_that_nobody_asked_about_is_handed_on() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
    with stop_requests() as stop:  # the control: once it is told, it is dealt with
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.cause == "SIGINT"
    with stop_requests():  # nobody heeds this one outside, and by itself it would end the process
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_that_nobody_asked_about_hides_no_error() -> None:
    def fail_after_ctrl_c() -> None:
        with stop_requests():
            os.kill(os.getpid(), signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_ctrl_c()


def test_the_clock_and_other_threads() -> None:
    assert StopRequest(0.0).cause == "time limit"
    assert StopRequest(3600.0).cause is None
    seen = []

    def elsewhere() -> None:
        with stop_requests(0.0) as stop:
            seen.append(stop.cause)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["time limit"]
