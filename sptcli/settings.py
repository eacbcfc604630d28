"""Where a setting comes from: --set, a TOML file with one table a command, and the text that re-runs a job.

The order, strongest first: flag, SPT_<CMD>_<FLAG>, --set, --config, preset, default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from sptcore.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Setting:
    """One value and the place it was set."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Extra:
    """A setting without a flag: its default and its help. A command's `extra_settings()` names them by key."""

    default: Any = None
    help: str = ""


def read_config(path: Path, command: str, commands: Iterable[str]) -> dict[str, Setting]:
    """The keys of `[command]` in the TOML file `path`, spelled as flags; {} when it has no such table.

    Raises UsageError for a missing or broken file and for a table that is no command.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"the settings file cannot be read: {error.strerror}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path)) from error
    known = [*commands]
    found: dict[str, Setting] = {}
    for name, table in tables.items():
        if dashed(name) not in known:
            hint = did_you_mean(dashed(name), known) or "settings stand in a table named after their command: [train]"
            raise UsageError(f"unknown table [{name}]", where=str(path), hint=hint)
        if not isinstance(table, dict):
            raise UsageError(f"{name} is a table of settings: [{name}]", where=str(path))
        if dashed(name) == command:
            found = {dashed(key): Setting(value, f"{path} [{name}]") for key, value in table.items()}
    return found


def read_sets(sets: Iterable[str], command: str) -> dict[str, Setting]:
    """The settings of `--set KEY=VAL`; KEY may carry the command's name (`train.lr`); VAL is TOML, else plain text."""
    found = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VAL, not {text!r}")
        table, dot, rest = dashed(key.strip()).rpartition(".")
        if dot and table != command:
            raise UsageError(f"--set {key}: this command is {command!r}", hint=f"--set {rest}={value}")
        found[rest] = Setting(from_text(value.strip()), f"--set {text}")
    return found


def from_text(text: str) -> Any:
    """`text` as the TOML value it spells, else as it is."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def dashed(key: str) -> str:
    return key.replace("_", "-")


def variable(command: str, key: str) -> str:
    """The environment variable of a setting: SPT_<CMD>_<KEY>."""
    return f"SPT_{command}_{key}".replace("-", "_").upper()


def check_keys(found: Mapping[str, Setting], known: Mapping[str, Any], command: str) -> None:
    """Raise UsageError with a suggestion for the first key of `found` that is no setting of `command`."""
    for key, setting in found.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"spt config init {command} lists every key"
            raise UsageError(f"{command} has no setting {key!r}", where=setting.origin, hint=hint)


def as_default(value: Any, *, multiple: bool, is_flag: bool) -> Any:
    """A TOML value in the form the option parser reads: text, a list of texts, or a boolean for a switch."""
    if isinstance(value, list):
        texts = [as_text(item) for item in value]
        return texts if multiple else ",".join(texts)
    if is_flag and isinstance(value, bool):
        return value
    return [as_text(value)] if multiple else as_text(value)


def as_text(value: Any) -> str:
    """A value as a person would type it after its flag."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        return str(value)
    if hasattr(value, "as_flag"):
        return value.as_flag()
    if isinstance(value, (list, tuple)):
        return ",".join(as_text(item) for item in value)
    return str(value)


def toml_text(command: str, values: Mapping[str, Any]) -> str:
    """The table `[command]` with one line a value; a value that is None is left out, TOML has no such thing."""
    lines = [f"{key} = {toml_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{command}]", *lines]) + "\n"


def toml_value(value: Any) -> str:
    """A value in TOML; what TOML has no type for is the text a person would type."""
    import tomlkit

    return tomlkit.item(_plain(value)).as_string()


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "as_flag"):
        return [_plain(item) for item in value]
    return as_text(value)
