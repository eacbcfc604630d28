"""Progress: who draws what, a plain line every ten seconds, JSON lines, a bar that leaves the terminal clean."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from sptcli.flags import Flags
from sptcli.progress import BarProgress, JsonProgress, PlainProgress, Remarks, choose_progress
from sptcore.progress import SILENT, track


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_auto_draws_a_bar_only_on_a_capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert type(choose_progress(Flags(), stream=Terminal())) is BarProgress
    assert type(choose_progress(Flags(), stream=io.StringIO())) is PlainProgress
    monkeypatch.setenv("TERM", "dumb")
    assert type(choose_progress(Flags(), stream=Terminal())) is PlainProgress
    assert type(choose_progress(Flags(progress="json"), stream=io.StringIO())) is JsonProgress
    assert type(choose_progress(Flags(progress="off"), stream=Terminal())) is Remarks
    assert type(choose_progress(Flags(quiet=True), stream=Terminal())) is Remarks
    assert choose_progress(Flags(), leader=False, stream=Terminal()) is SILENT


def test_plain_writes_a_line_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock=clock)
    progress.start("images", 100)
    for _ in range(50):
        clock.now += 0.5
        progress.advance(1, loss=0.25)
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "images: 20/100 (20%) in 10s, 40s left, loss 0.25",
        "images: 40/100 (40%) in 20s, 30s left, loss 0.25",
        "images: 50/100 (50%) in 25s, 25s left, loss 0.25",
    ]


def test_plain_does_not_repeat_its_last_line() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock=clock)
    progress.start("looking", 2)
    for _ in range(2):
        clock.now += 20
        progress.advance()
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert [line.partition(" in ")[0] for line in lines] == ["looking: 1/2 (50%)", "looking: 2/2 (100%)"]


def test_plain_says_nothing_of_a_short_stage_and_bears_an_unknown_total() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock=clock)
    assert list(track([1, 2, 3], progress, "short")) == [1, 2, 3]
    assert stream.getvalue() == ""
    progress.start("endless", None)
    clock.now += 4000
    progress.advance(7)
    assert stream.getvalue() == "endless: 7 in 1h06m\n"


def test_json_lines() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = JsonProgress(stream, clock=clock)
    progress.start("images", 4)
    for _ in range(4):
        clock.now += 0.5
        progress.advance(loss=float("nan"))
    progress.finish()
    progress.note("[red]x")
    progress.warn("y")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["start", "advance", "advance", "finish", "note", "warning"]
    assert events[2] == {
        "event": "advance", "stage": "images", "done": 4, "total": 4, "seconds": 2.0, "seconds_left": 0.0, "loss": None,
    }  # fmt: skip
    assert events[4]["message"] == "[red]x"


@pytest.mark.parametrize("kind", [Remarks, PlainProgress, JsonProgress, BarProgress])
def test_every_listener_bears_nested_and_unpaired_calls(kind: type[Remarks]) -> None:
    progress = kind(io.StringIO())
    progress.advance()
    progress.finish()
    progress.start("epochs", 2)
    progress.start("steps", None)
    progress.advance(3, note="[x]")
    progress.finish()
    progress.advance()
    progress.finish()
    progress.start("left open", 3)
    progress.close()
    assert progress.stages == []


def test_a_bar_shows_its_stage_and_restores_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    progress = BarProgress(stream)
    progress.start("labels [red]", 4)
    progress.advance(2, loss=0.5)
    progress.bars.refresh()
    progress.note("a remark")
    progress.close()
    text = stream.getvalue()
    assert "labels [red]" in text
    assert "2/4" in text
    assert "loss 0.5" in text
    assert "a remark" in text
    assert text.rstrip().rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_what_was_done_before_counts_but_not_for_the_pace() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock=clock)
    progress.start("training", 100, done=80)
    for _ in range(10):
        clock.now += 1
        progress.advance(1, **{"loss": 2.5, "loss_select": 0.25, "select_ratio.stage3": 0.5, "img_per_s": 8.0})
    assert stream.getvalue() == (
        "training: 90/100 (90%) in 10s, 10s left, loss 2.5, loss_select 0.25, select ratio s3 0.50, 8.0 img/s\n"
    )


def test_a_bar_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    progress = BarProgress(stream)
    progress.start("training", 4, done=3)
    progress.bars.refresh()
    progress.close()
    assert "3/4" in stream.getvalue()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_what_is_watched_takes_no_room_from_the_bar(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    progress, stream = BarProgress(Terminal()), io.StringIO()
    progress.start("training spt-nano", 240)
    progress.advance(3, **{f"loss_{name}": 0.5 for name in ("box", "mask", "rpn", "select")}, memory_mb=937)
    shown = [*progress.bars.get_renderables()]
    progress.close()
    Console(file=stream, width=columns).print(*shown)
    bar, *below = stream.getvalue().splitlines()
    assert bar.startswith("training spt-nano ")
    assert "3/240" in bar
    assert "loss_box 0.5, loss_mask 0.5, loss_rpn 0.5, loss_select 0.5, 937 MB" in " ".join(map(str.strip, below))
