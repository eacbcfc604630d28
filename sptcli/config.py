"""`spt config show|init|check`: the settings of a command, where each comes from, and a file to start from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sptcli import options, settings
from sptcli.console import pairs, table
from sptcli.dispatch import SptCommand, load
from sptcli.flags import Flags
from sptcli.session import Session
from sptcore.errors import UsageError, did_you_mean

EXAMPLES = (
    "spt config show",
    "spt config show train --origin",
    "spt config show train --origin --config paper.toml --set lr=1e-4",
    "spt config init train --out train.toml",
    "spt config check train.toml train",
)
HANDS_SETTINGS_ON = True  # --config and --set speak of the command that is asked about, not of `config`


def command(
    ctx: typer.Context,
    action: Annotated[Literal["show", "init", "check"], typer.Argument(metavar="show|init|check", show_default=False)],
    words: Annotated[list[str] | None, typer.Argument(metavar="FILE|CMD", help="check takes FILE and CMD")] = None,
    origin: Annotated[bool, typer.Option("--origin", help="show: tell where each value comes from")] = False,
    out: options.Out = None,
    force: options.Force = False,
) -> None:
    """Show the settings in effect, write a settings file to start from, or check one.

    A setting is looked for in this order: flag, SPT_<CMD>_<FLAG> in the environment, --set, --config FILE.toml,
    preset, default. A file has one table a command, its keys spelled like the flags:

      [train]
      model = "spt-s"
      lr = 1e-4

    show without a command tells where data, runs and the cache are; init without a command writes every table.
    """
    session = Session.of(ctx)
    if action == "show":
        _show(session, words or [], origin)
    elif action == "init":
        _init(session, words or [], out, force)
    else:
        _check(session, words or [])


def _show(session: Session, words: Sequence[str], origin: bool) -> None:
    name = _one_command(words)
    if name is None:
        places = folders()
        session.show({"folders": places}, pairs({key: f"{path}  ({how})" for key, (path, how) in places.items()}))
        return
    rows = effective(name, session.flags)
    documents = [{"key": key, "value": value, "origin": how} for key, value, how in rows]
    texts = [(key, "-" if value is None else settings.as_text(value), how) for key, value, how in rows]
    view = table(["setting", "value", "from"], texts) if origin else pairs({key: text for key, text, _ in texts})
    session.show({"command": name, "settings": documents}, view)


def folders() -> dict[str, tuple[str, str]]:
    """Where data, runs and the cache are: path and what decides it."""
    from sptcore.cache import cache_folder
    from sptcore.runs import runs_root

    def decided(variable: str, otherwise: str) -> str:
        return variable if os.environ.get(variable) else otherwise

    return {
        "data": (os.environ.get("SPT_DATA") or "data", decided("SPT_DATA", "default: ./data, then .")),
        "runs": (str(runs_root()), decided("SPT_RUNS", "default")),
        "cache": (str(cache_folder()), decided("SPT_CACHE", "default")),
    }


def effective(name: str, flags: Flags) -> list[tuple[str, Any, str]]:
    """(key, value, origin) of every setting of command `name`, as a run with nothing but these `flags` has it."""
    command = _loaded(name)
    session = Session(command=name, flags=flags)
    context = typer.Context(command, info_name=f"spt {name}", obj=session)  # type: ignore[arg-type]
    context.default_map = session.load_settings(command)
    for param in command.own_params():
        param.required = False
        param.handle_parse_result(context, {}, [])
    session.settle(command, context)
    extras = {key.replace("-", "_"): extra.default for key, extra in command.extra_settings().items()}
    values = extras | session.values | session.extra
    keys = session.keys | {name: settings.dashed(name) for name in extras}
    return [(key, values[name], session.origin(name)) for name, key in keys.items()]


def _init(session: Session, words: Sequence[str], out: Path | None, force: bool) -> None:
    from sptcli.app import COMMANDS

    name = _one_command(words)
    names = [name] if name else [entry for entry in COMMANDS if entry not in ("config", "doctor")]
    text = "\n".join(template(entry) for entry in names)
    if out is None:
        session.show({"text": text}, text.rstrip("\n"))
        return
    from sptcore.errors import EnvironmentFault
    from sptcore.files import write_atomically

    if out.exists() and not force:
        raise EnvironmentFault("the output exists already", where=str(out), hint="add --force to replace it")
    write_atomically(out, text)
    session.show({"text": text})
    session.finish(artefacts={"settings": out}, next=f"spt {names[0]} --config {shlex.quote(str(out))}")


def template(name: str) -> str:
    """`[name]` with every setting commented out at its default, its help and its environment variable above it."""
    command = _loaded(name)
    known = {
        key: settings.Extra(param.default, (getattr(param, "help", None) or "").replace("\\[", "["))
        for key, param in command.keyed_params().items()
    } | command.extra_settings()
    lines = [f"# {summary(command)}", f"[{name}]"]
    for key, setting in known.items():
        without = setting.default is None or callable(setting.default)
        lines.append("# " + f"{setting.help}  ({settings.variable(name, key)})".strip())
        lines.append(f"# {key} =" + ("" if without else f" {settings.toml_value(setting.default)}"))
    return "\n".join(lines) + "\n"


def summary(command: SptCommand) -> str:
    """The first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").partition("\n\n")[0].replace("\\[", "[").split())


def _check(session: Session, words: Sequence[str]) -> None:
    from sptcli.app import COMMANDS

    if len(words) != 2:
        raise UsageError("check takes a file and a command", hint="spt config check train.toml train")
    path, name = Path(words[0]), _known(words[1])
    found = settings.read_config(path, name, COMMANDS)
    effective(name, Flags(config=path))
    view = f"{path}: {len(found)} settings of {name}, all known and well formed"
    session.show({"file": path, "command": name, "keys": sorted(found)}, view)


def _one_command(words: Sequence[str]) -> str | None:
    if len(words) > 1:
        raise UsageError(f"one command at most, not {' '.join(words)!r}", hint="spt config show train")
    return _known(words[0]) if words else None


def _known(name: str) -> str:
    from sptcli.app import COMMANDS

    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}", hint=did_you_mean(name, COMMANDS) or "spt --help lists them")
    return name


def _loaded(name: str) -> SptCommand:
    from sptcli.app import COMMANDS

    return load(name, COMMANDS[name])
