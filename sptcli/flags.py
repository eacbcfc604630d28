"""The options every command takes, before or after its name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

PANEL = "Everywhere"
ProgressMode = Literal["auto", "bar", "plain", "json", "off"]


@dataclass(frozen=True)
class Flags:
    """What a person asked of the frame itself, merged from before and after the command's name."""

    config: Path | None = None
    sets: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    progress: str = "auto"
    version: bool = False

    def overlaid(self, raw: Mapping[str, Any]) -> Flags:
        """These flags with the raw parser values `raw` (of a later position) on top."""
        config = raw.get("config")
        return Flags(
            config=self.config if config is None else Path(config),
            sets=(*self.sets, *(raw.get("sets") or ())),
            json=self.json or bool(raw.get("json")),
            quiet=self.quiet or bool(raw.get("quiet")),
            verbose=self.verbose or bool(raw.get("verbose")),
            debug=self.debug or bool(raw.get("debug")),
            progress=raw.get("progress") or self.progress,
            version=self.version or bool(raw.get("version")),
        )


def _everywhere(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="settings from a TOML file")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VAL", help="one setting; may be repeated")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="results, warnings and errors only")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say more on the way")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
    progress: Annotated[ProgressMode, typer.Option("--progress", help="how progress is shown, on stderr")] = "auto",
    version: Annotated[bool, typer.Option("--version", "-V", help="print the version and stop")] = False,
) -> None:
    """Carrier of the shared options; never called."""


def global_params() -> list[Any]:
    """Fresh parameter objects of the shared options, kept from the command's own function."""
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_everywhere)
    params = typer.main.get_command(carrier).params
    for param in params:
        param.expose_value = False
        param.show_default = False  # type: ignore[attr-defined]
        param.rich_help_panel = PANEL  # type: ignore[attr-defined]
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def shared_hints() -> dict[str, Any]:
    """The types of the shared options by parameter name."""
    return get_type_hints(_everywhere)


def before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    """The words before a lone `--`, where options may stand."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def print_version(as_json: bool) -> None:
    """Write the version to stdout."""
    from sptcli.console import dump_json
    from sptcore import __version__

    document = {"schema": "spt.version/1", "ok": True, "version": __version__}
    sys.stdout.write(dump_json(document) if as_json else f"spt {__version__}\n")
