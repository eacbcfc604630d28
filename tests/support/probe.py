"""A command that exists only in tests: it shows what it was given, or fails in the way it is asked to."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sptcli import options
from sptcli.console import pairs, table
from sptcli.session import Session
from sptcli.settings import Extra
from sptcore import errors

FIFTH = options.Fraction(1, 5)
EXAMPLES = ("spt probe show",)

FAILURES: dict[str, Any] = {
    "usage": lambda: errors.UsageError("a", where="b", hint="c"),
    "data": lambda: errors.DataError("a", where="b", hint="c"),
    "environment": lambda: errors.EnvironmentFault("a", where="b", hint="c"),
    "integrity": lambda: errors.IntegrityError("a", where="b", hint="c"),
    "numerical": lambda: errors.NumericalError("a", where="b", hint="c"),
    "resource": lambda: errors.ResourceError("a", where="b", hint="c"),
    "bug": lambda: ZeroDivisionError("division by [red]zero[/red]"),
    "memory": MemoryError,
    "interrupt": KeyboardInterrupt,
    "missing": lambda: FileNotFoundError(2, "No such file or directory", "/nowhere/x"),
    "library": lambda: ImportError("libGL.so.1: cannot open shared object file", name="cv2"),
    "own-import": lambda: ImportError("cannot import name 'x'", name="sptcore.nothing"),
}


def extra_settings() -> dict[str, Extra]:
    """Two settings without a flag."""
    return {"crop_prob": Extra(0.5, "probability of a crop"), "scales": Extra([1.0], "factors")}


def preset(values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Lay `lr`, `res` and `scales` over the defaults when the data is `paper`."""
    return (
        ("paper", {"lr": 5.0, "res": options.Size(3, 4), "scales": [0.5, 1.0]}) if values["data"] == "paper" else None
    )


def command(
    ctx: typer.Context,
    action: Annotated[str, typer.Argument(help="show, result-then-fail, wait, or a failure")] = "show",
    data: options.DataOption = "sample",
    lr: Annotated[float, typer.Option("--lr", "--learning-rate")] = 1.0,
    res: options.Res = None,
    max_ratio: Annotated[options.Fraction, typer.Option(parser=options.parse_ratio)] = FIFTH,
    names: Annotated[list[str] | None, typer.Option()] = None,
    drop: Annotated[bool, typer.Option("--drop/--no-drop")] = True,
) -> None:
    """Show what a command is given [red], or fail.

    Second paragraph.
    """
    session = Session.of(ctx)
    if action in FAILURES:
        raise FAILURES[action]()
    origins = {name: session.origin(name) for name in (*session.values, *session.extra)}
    shown = {"data": data, "lr": lr, "res": res, "max_ratio": max_ratio, "names": names, "drop": drop}
    if action == "warn":
        warnings.warn_explicit("of a library", UserWarning, "/site-packages/lib.py", 3)
        warnings.warn_explicit("of ours", UserWarning, str(Path(errors.__file__)), 3)
    session.note("a note")
    session.detail("a detail")
    session.warn("a warning")
    session.show(
        {
            **shown,
            "extra": session.extra,
            "origins": origins,
            "explicit": session.explicit("lr"),
            "toml": session.as_toml(),
        }
    )
    session.show({}, table(["name", "value"], shown.items()), pairs(shown), f"text {data}")
    if action == "result-then-fail":
        raise errors.IntegrityError("AP 0.1 is below 0.2")
    if action == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    session.finish(artefacts={"log": "a/log.txt"}, next="spt probe again")


@contextmanager
def probe_command() -> Iterator[None]:
    """Put `probe` on the table of commands for a while."""
    from sptcli.app import COMMANDS
    from sptcli.dispatch import Entry

    COMMANDS["probe"] = Entry("tests.support.probe", "Test", "show what a command is given")
    try:
        yield
    finally:
        del COMMANDS["probe"]


def main() -> int:
    """`python -m tests.support.probe ...` is `spt ...` with the command `probe`."""
    from sptcli.app import main as spt_main

    with probe_command():
        return spt_main()


if __name__ == "__main__":
    sys.exit(main())
