"""The two classes beneath typer: a group that imports nothing it need not, a command that knows its settings."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from sptcli.completion import complete
from sptcli.flags import PANEL, Flags, global_params, print_version
from sptcli.options import LIST_MARK
from sptcli.session import Session
from sptcli.settings import Extra, dashed, variable

PANELS = ("Data", "Train and test", "Efficiency", "Look", "Setup")


@dataclass(frozen=True)
class Entry:
    """One line of the command table: where its function lives, its help panel, its one-line help."""

    module: str
    panel: str
    line: str


class SptCommand(TyperCommand):
    """A typer command that takes the shared options and resolves its settings in one fixed order."""

    module: ModuleType | None = None

    def equip(self, module: ModuleType) -> SptCommand:
        """Attach the module's examples and preset, the shared options and the environment names."""
        self.module = module
        self.epilog = _epilog(getattr(module, "EXAMPLES", ()))
        self.help = _escape(_flow(self.help or ""))
        for param in self.params:
            _name_environment(self.name or "", param)
            complete(self.name or "", param, flag_name(param))
            if text := getattr(param, "help", None):
                param.help = _escape(text)  # type: ignore[attr-defined]
            if getattr(param, "is_flag", False):
                param.metavar = ""
            if write := getattr(param.default, "as_flag", None):
                param.show_default = write()  # type: ignore[attr-defined]
        self.params = [*self.params, *global_params()]
        return self

    def make_parser(self, ctx: Any) -> Any:
        """The parser, in which a list that is given again adds up: `--model a --model b` is `--model a,b`."""
        parser = super().make_parser(ctx)
        lists: dict[Any, Any] = {param.name: param for param in self.params if takes_list(param)}
        for name, param in lists.items():
            parser.add_option(param, param.opts, dest=name, action="append")
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            found, rest, order = parse(args)
            return {name: ",".join(one) if name in lists else one for name, one in found.items()}, rest, order

        parser.parse_args = parse_args
        return parser

    def own_params(self) -> list[Any]:
        """The parameters of the command itself, without the shared ones."""
        return [param for param in self.params if getattr(param, "rich_help_panel", None) != PANEL]

    def keyed_params(self) -> dict[str, Any]:
        """The command's own parameters by the name a person types in a settings file."""
        return {flag_name(param): param for param in self.own_params()}

    def spellings(self) -> dict[str, Any]:
        """The command's own parameters by every key a settings file may use: long flags, and Python names."""
        params = self.own_params()
        by_flag = {name: param for param in params for name in long_names(param)}
        return {dashed(param.name): param for param in params} | by_flag

    def extra_settings(self) -> dict[str, Extra]:
        """The settings without a flag that the module declares, by key."""
        declared = getattr(self.module, "extra_settings", None)
        return {dashed(key): extra for key, extra in declared().items()} if declared else {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Shared options first, then settings from files and presets as defaults of the command's own options."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        raw, _, _ = self.make_parser(ctx).parse_args(list(args))
        session = Session.of(ctx)
        session.command = self.name or ""
        session.flags = session.flags.overlaid(raw)
        _stop_for_version(session.flags, raw)
        if not raw.get("help"):
            ctx.default_map = session.load_settings(self)
        rest = super().parse_args(ctx, args)
        session.settle(self, ctx)
        return rest

    def invoke(self, ctx: Any) -> Any:
        session = Session.of(ctx)
        session.warn_of_unknown_variables(self)
        session.detail_settings()
        return super().invoke(ctx)


class SptGroup(TyperGroup):
    """The root: lists commands from a literal table and imports the one that is invoked."""

    table: ClassVar[dict[str, Entry]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.params = [*self.params, *global_params()]
        self.commands = {
            name: TyperCommand(name, help=entry.line, rich_help_panel=entry.panel, rich_markup_mode="rich")
            for name, entry in self.table.items()
        }

    def list_commands(self, ctx: Any) -> list[str]:
        """Names by panel, in the panels' own order."""
        order = {panel: place for place, panel in enumerate(PANELS)}
        return sorted(self.table, key=lambda name: order.get(self.table[name].panel, len(order)))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] in self.table:
            return args[0], load(args[0], self.table[args[0]]), args[1:]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not ctx.resilient_parsing:
            raw, _, _ = self.make_parser(ctx).parse_args(list(args))
            session = Session.of(ctx)
            session.flags = Flags().overlaid(raw)
            _stop_for_version(session.flags, raw)
        return super().parse_args(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:
        """Run, turn every failure into one screen and an exit code, and leave by SystemExit."""
        from sptcli.failures import run_to_exit_code

        session = Session(arguments=tuple(sys.argv[1:] if args is None else args))
        run = super().main
        work = lambda: run(session.arguments, prog_name="spt", standalone_mode=False, obj=session)  # noqa: E731
        raise SystemExit(run_to_exit_code(work, session, commands=self.table))


def load(name: str, entry: Entry) -> SptCommand:
    """The command `name`, its module imported now."""
    module = importlib.import_module(entry.module)
    carrier = typer.Typer(add_completion=False, rich_markup_mode="rich")
    carrier.command(name, cls=SptCommand)(module.command)
    command = typer.main.get_command(carrier)
    assert isinstance(command, SptCommand)
    return command.equip(module)


def flag_name(param: Any) -> str:
    """The name a person types: the first long flag without its dashes, or an argument's name with dashes."""
    return long_names(param)[0]


def long_names(param: Any) -> list[str]:
    """The long flags of an option without their dashes, or an argument's name with dashes."""
    flags = [option.lstrip("-") for option in param.opts if option.startswith("--")]
    return flags if flags and param.param_type_name == "option" else [dashed(param.name)]


def takes_list(param: Any) -> bool:
    """Whether an option takes values parted by commas: its metavar says so, as in `NAME,..`."""
    single = param.param_type_name == "option" and not getattr(param, "multiple", False)
    return single and LIST_MARK in (param.metavar or "")


def _name_environment(command: str, param: Any) -> None:
    given = param.envvar or []
    given = [given] if isinstance(given, str) else [*given]
    param.envvar = [*(variable(command, name) for name in long_names(param)), *given]
    param.show_envvar = bool(given)


def _stop_for_version(flags: Flags, raw: dict[str, Any]) -> None:
    if flags.version and not raw.get("help"):
        print_version(flags.json)
        raise typer.Exit(0)


def _flow(text: str) -> str:
    """Docstring paragraphs on one line each, so that the terminal wraps them; indented paragraphs stay as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if p.startswith((" ", "-")) else p.replace("\n", " ") for p in paragraphs)


def _escape(text: str) -> str:
    """`text` with rich markup made literal."""
    return re.sub(r"(\\*)(\[[a-z#/@])", r"\1\1\\\2", text)


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["Examples:", *(f"  {_escape(example)}" for example in examples)]) if examples else ""
