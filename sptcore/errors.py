"""What a person can mend, as exceptions; each carries the exit code of the command line.

    SptError            1  (never raised itself)
    ├── UsageError      2  a flag, a configuration key or a name that does not exist
    ├── DataError       3  data missing or invalid
    ├── EnvironmentFault 4 device, extra, disk, permission
    ├── IntegrityError  5  a file is not what it says, or a requested check failed
    ├── NumericalError  6  a loss that is not finite
    └── ResourceError   7  memory, a dead worker

A wrong argument to a library function is a plain `ValueError`; `assert` stands only for what cannot happen.
"""

from __future__ import annotations


class SptError(Exception):
    """A fault a person can mend: what happened, where we looked, and the one step that mends it.

    `where` names a file, a line or a JSON path; `hint` is a command or an action, in plain words.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def __reduce__(self):  # crosses process boundaries with its three parts
        return (_rebuild, (type(self), self.message, self.where, self.hint))


def _rebuild(cls: type[SptError], message: str, where: str | None, hint: str | None) -> SptError:
    return cls(message, where=where, hint=hint)


class UsageError(SptError):
    """A flag, a key or a name that does not exist."""

    exit_code = 2
    kind = "usage"


class DataError(SptError):
    """Data missing or invalid."""

    exit_code = 3
    kind = "data"


class EnvironmentFault(SptError):
    """Device, optional extra, disk or permission."""

    exit_code = 4
    kind = "environment"


class IntegrityError(SptError):
    """A file that is not what it says, or a check that was asked for and failed."""

    exit_code = 5
    kind = "integrity"


class NumericalError(SptError):
    """A loss or a weight that is not finite."""

    exit_code = 6
    kind = "numerical"


class ResourceError(SptError):
    """Out of memory, or a worker process that died."""

    exit_code = 7
    kind = "resource"


def did_you_mean(word: str, choices) -> str | None:
    """`"did you mean 'spt-s'?"` for the closest of `choices` to `word`, or None when nothing is close."""
    import difflib

    close = difflib.get_close_matches(word, [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None
