"""From an exception to one screen, one JSON document and one exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

import sptcore
from sptcli.session import Session
from sptcore.errors import SptError, did_you_mean

CLOSED_PIPE = 141
STOPPED = (130, 143)
"""Of several processes that are stopped together the leader alone says so."""


@dataclass(frozen=True)
class Failure:
    """What a person reads when a command fails: exit code, what happened, where, and what mends it."""

    code: int
    message: str
    where: str | None = None
    hint: str | None = None

    def as_json(self) -> dict[str, object]:
        return {"code": self.code, "message": self.message, "where": self.where, "hint": self.hint}


def run_to_exit_code(work: Callable[[], Any], session: Session, *, commands: Iterable[str]) -> int:
    """Call `work`, show whatever goes wrong, write the pending JSON document, and return the exit code."""
    replace_closed_streams()
    make_streams_lenient()
    try:
        code, failure = _attempt(work, session)
        session.close()
        return _conclude(code, failure, session, commands)
    except BrokenPipeError:
        _silence_stdout()
        return CLOSED_PIPE


def _attempt(work: Callable[[], Any], session: Session) -> tuple[int, Failure | None]:
    """The exit code of `work` and its failure; BrokenPipeError passes through."""
    try:
        with sigterm_as_exit(), warnings_as_lines(session):
            left = work()
            code = left if isinstance(left, int) else 0
    except BrokenPipeError:
        raise
    except BaseException as error:  # every way out of a command ends here, as an exit code
        if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None  # rich and typer leave by SystemExit(1) when the pipe is closed
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
            return 2, None
        if isinstance(error, SystemExit) and error.code in (0, None):
            return 0, None
        failure = failure_of(error, session)
        if session.wants_traceback and not isinstance(error, SystemExit):
            traceback.print_exception(error, file=sys.stderr)
        return failure.code, failure
    return (130, Failure(130, "interrupted")) if code == 130 else (code, None)


def _conclude(code: int, failure: Failure | None, session: Session, commands: Iterable[str]) -> int:
    """Show the failure on stderr and write the one JSON document where it was asked for; returns the exit code."""
    from sptcli.console import dump_json, show_failure

    as_json = session.flags.progress == "json"
    if failure is not None and (session.is_leader or failure.code not in STOPPED):
        show_failure(failure, as_json=as_json)
    try:
        if session.wants_json and (session.opened or failure is not None) and session.is_leader:
            sys.stdout.write(dump_json(_document(code, failure, session, commands)))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if failure is None:
            lost = f"the result cannot be written: {error.strerror}"
            show_failure(Failure(4, lost, "standard output", "make room, or send it elsewhere"), as_json=as_json)
        _silence_stdout()
        return code or 4
    return code


def _document(code: int, failure: Failure | None, session: Session, commands: Iterable[str]) -> dict[str, object]:
    """What `--json` prints: the result so far, and the failure."""
    known = set(commands)
    name = session.command or next((word for word in session.arguments if word in known), "")
    document: dict[str, object] = {"schema": f"spt.{name}/1" if name else "spt/1", "ok": code == 0}
    document |= session.document
    if failure is not None:
        document["error"] = failure.as_json()
    return document


def failure_of(error: BaseException, session: Session) -> Failure:
    """The Failure for any exception a command can end with."""
    if isinstance(error, SptError):
        return Failure(error.exit_code, error.message, error.where, error.hint)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Failure(130, "interrupted")
    if isinstance(error, SystemExit):
        return _of_exit(error)
    if hasattr(error, "format_message"):  # the usage errors of typer
        return _of_usage(error, session)
    return _of_resources(error) or _of_environment(error) or _of_bug(error)


def _of_exit(error: SystemExit) -> Failure:
    if not isinstance(error.code, int):
        return Failure(1, str(error.code))
    reasons = {130: "interrupted", 143: "terminated"}
    return Failure(error.code, reasons.get(error.code, f"ended with exit code {error.code}"))


def _of_usage(error: Any, session: Session) -> Failure:
    context = getattr(error, "ctx", None)
    hint = f"see {context.command_path} --help" if context is not None else None
    message = error.format_message().replace("Value error, ", "")
    if type(error).__name__ == "NoSuchOption":
        message = error.message
        hint = did_you_mean(error.option_name, error.possibilities or ()) or hint
    if context is not None and isinstance(context.obj, Session):
        session = context.obj  # `config` parses other commands' settings in a session of their own
    param = getattr(error, "param", None)
    where = session.where_set(param.name) if param is not None else None
    return Failure(2, message.replace("\n\t", " ").rstrip("."), where, hint)


def _of_resources(error: BaseException) -> Failure | None:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        hint = "use a smaller --batch or --res, fewer --jobs or --workers, or a machine with more memory"
        return Failure(7, "out of memory" + (f": {error}" if str(error) else ""), hint=hint)
    if type(error).__name__ in ("BrokenProcessPool", "BrokenExecutor"):
        return Failure(7, "a worker process died", hint="use fewer --jobs; the system may have run out of memory")
    return None


def _of_environment(error: BaseException) -> Failure | None:
    if isinstance(error, ImportError) and not (error.name or "").startswith("spt"):
        return Failure(4, f"a library could not be loaded: {error}", hint="spt doctor tells what is missing")
    if isinstance(error, RuntimeError) and "operator torchvision::" in str(error):
        return Failure(4, f"torch and torchvision do not fit together: {error}", hint="spt doctor tells the cure")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit (ulimit -n 4096), or use fewer --workers or --jobs"
        return Failure(4, "too many open files at once", hint=hint)
    if isinstance(error, OSError) and error.errno is not None:
        where = None if error.filename is None else str(error.filename)
        return Failure(4, error.strerror or str(error), where)
    return None


def _of_bug(error: BaseException) -> Failure:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Failure(1, f"unexpected, a bug in spt: {reason}", hint="run with --debug for the traceback")


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Raise SystemExit(143) in the main thread on SIGTERM, unless somebody handles it already."""
    usable = threading.current_thread() is threading.main_thread()
    if not usable or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def warnings_as_lines(session: Session) -> Iterator[None]:
    """Show a warning of ours as one line; a library's only under --verbose or --debug, its readers are developers."""
    ours = str(Path(__file__).parent), str(Path(sptcore.__file__).parent)

    def show(message: Warning | str, category: type, filename: str, lineno: int, *rest: object) -> None:
        if filename.startswith(ours):
            session.warn(str(message))
        elif session.flags.verbose or session.wants_traceback:
            session.warn(f"{category.__name__} in {filename}:{lineno}: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _leave(number: int, frame: object) -> None:
    raise SystemExit(143)


def replace_closed_streams() -> None:
    """Give a stream that was closed before we started (`>&-`) to the null device.

    Its number is taken as well, else the next file opened would get it, and what libraries print would end in there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def make_streams_lenient() -> None:
    """A character the terminal cannot show is written as an escape, never as a UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, target)
    os.close(sink)
