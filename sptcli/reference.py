"""docs/cli.md from the commands themselves: `python -m sptcli.reference > docs/cli.md`.

The text depends on nothing but the commands: no terminal, no width, no colour, no version of typer.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sptcli import settings
from sptcli.app import COMMANDS
from sptcli.dispatch import PANELS, SptCommand, flag_name, load
from sptcli.flags import global_params, shared_hints

INTRODUCTION = """\
# Command reference

Generated from the commands' own help: `python -m sptcli.reference > docs/cli.md`. A test compares.

Results go to stdout, everything else to stderr. `--json` prints one document
`{"schema": "spt.<command>/1", "ok": true, ...}`, on failure with `"error": {"code", "message", "where", "hint"}`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected: a bug |
| 2 | usage: an option, a setting or a name that does not exist |
| 3 | data missing or invalid |
| 4 | environment or I/O: device, optional package, disk, permission |
| 5 | a file is not what it says, or a check that was asked for failed |
| 6 | numerical: a loss that is not finite |
| 7 | resources: memory, a dead worker |
| 130, 143 | interrupted, terminated; state is safe |
| 141 | the reader of stdout went away |

A setting is looked for in this order: flag, `SPT_<CMD>_<FLAG>` in the environment (`SPT_TRAIN_LR`), `--set KEY=VAL`,
`--config FILE.toml` (table `[train]`, keys like the flags), the command's preset, default.
`spt config show CMD --origin` tells where each value comes from. `SPT_DATA`, `SPT_RUNS` and `SPT_CACHE` name folders.
"""


def reference() -> str:
    """The whole of docs/cli.md."""
    sections = [INTRODUCTION, "## Everywhere\n\n" + "\n".join(table_of(global_params(), shared_hints()))]
    for panel in PANELS:
        names = [name for name, entry in COMMANDS.items() if entry.panel == panel]
        if names:
            lines = [f"- [spt {name}](#spt-{name}): {COMMANDS[name].line}" for name in names]
            sections.append("\n".join([f"## {panel}", "", *lines]))
            sections += [section_of(name) for name in names]
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def section_of(name: str) -> str:
    """The section of one command: usage, help, its own options, examples."""
    command = load(name, COMMANDS[name])
    assert command.module is not None
    hints = typing.get_type_hints(command.module.command)
    usage = " ".join(["spt", name, *(_usage(param, hints) for param in command.own_params()), "[OPTIONS]"])
    lines = [f"### spt {name}", "", "```text", " ".join(usage.split()), "```", "", literal(help_of(command)), ""]
    lines += [*table_of(command.own_params(), hints), "", *extras_of(command)]
    return "\n".join([*lines, "```", *command.module.EXAMPLES, "```"])


def extras_of(command: SptCommand) -> Iterator[str]:
    """A table of the settings that have no flag."""
    if extras := command.extra_settings():
        yield from ("For `--set` and `--config` only:", "", "| key | default | |", "|---|---|---|")
        for key, extra in extras.items():
            default = "" if extra.default is None else f"`{settings.toml_value(extra.default)}`"
            yield f"| `{key}` | {default} | {literal(extra.help)} |"
        yield ""


def help_of(command: SptCommand) -> str:
    """The docstring of a command's function, its paragraphs one line each."""
    assert command.module is not None
    paragraphs = (inspect.getdoc(command.module.command) or "").split("\n\n")
    return "\n\n".join(_code(p) if p.startswith("  ") else p.replace("\n", " ") for p in paragraphs)


def _code(paragraph: str) -> str:
    return "\n".join(["```", *(line.removeprefix("  ") for line in paragraph.splitlines()), "```"])


def _usage(param: Any, hints: dict[str, Any]) -> str:
    if param.param_type_name != "argument":
        return ""
    word = param.metavar or param.name.upper()
    word += "..." if param.nargs == -1 and not word.endswith("..") else ""
    return word if param.required else f"[{word}]"


def table_of(params: list[Any], hints: dict[str, Any]) -> Iterator[str]:
    """Markdown tables of parameters, one a help panel: what to type, the default, what it does."""
    panels: dict[str, list[Any]] = {}
    for param in params:
        panels.setdefault(getattr(param, "rich_help_panel", None) or "", []).append(param)
    for panel, members in panels.items():
        yield from (["", f"{panel}:", ""] if panel and len(panels) > 1 else [])
        yield "| option | default | |"
        yield "|---|---|---|"
        for param in members:
            texts = (f"`{_spelling(param, hints)}`", _default(param), literal(param.help or ""))
            yield "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _spelling(param: Any, hints: dict[str, Any]) -> str:
    if param.param_type_name == "argument":
        return param.metavar or param.name.upper()
    names = sorted(param.opts, key=lambda name: not name.startswith("--"))
    if getattr(param, "is_flag", False):
        return ", ".join(names) + "".join(f" / {name}" for name in param.secondary_opts)
    return f"{', '.join(names)} {param.metavar or _type_word(hints.get(param.name, str))}"


def _type_word(hint: Any) -> str:
    """INT, FLOAT, TEXT, PATH, or the words of a Literal; of `X | None` and `list[X]` the word of X."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "|".join(str(part) for part in parts)
    if origin in (typing.Union, types.UnionType, list, tuple):
        return _type_word(next(part for part in parts if part is not types.NoneType))
    return {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}.get(hint, getattr(hint, "__name__", "VALUE").upper())


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if param.default is None or callable(param.default) or param.default in ((), []):
        return ""
    if getattr(param, "is_flag", False):
        return f"`{flag_name(param)}`" if param.default and param.secondary_opts else ""
    return f"`{settings.as_text(param.default)}`"


def literal(text: str) -> str:
    """Help text for Markdown: rich's escapes removed, angle brackets outside of code made literal."""
    parts = text.replace("\\[", "[").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


if __name__ == "__main__":
    sys.stdout.write(reference())
