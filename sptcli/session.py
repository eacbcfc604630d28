"""What a running command knows about itself: its flags, where its settings come from, and how it speaks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sptcli import settings
from sptcli.flags import Flags, before_dashes
from sptcli.settings import Setting
from sptcore.errors import did_you_mean
from sptcore.progress import Progress

SOURCES = {"COMMANDLINE": "flag", "PROMPT": "flag", "DEFAULT": "default"}


@dataclass
class Session:
    """One run of one command; a command gets it by `Session.of(ctx)`.

    `values`: the parameters as parsed. `extra`: the settings without a flag that somebody set, by Python name.
    """

    arguments: tuple[str, ...] = ()
    command: str = ""
    flags: Flags = field(default_factory=Flags)
    document: dict[str, object] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    opened: bool = False
    _origins: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, ctx: Any) -> Session:
        """The session of a typer context."""
        if not isinstance(ctx.obj, Session):
            ctx.obj = cls()
        return ctx.obj

    # -- settings ---------------------------------------------------------------------------------------------

    def explicit(self, name: str) -> bool:
        """Whether parameter `name` was set by a person, not by a preset or a default."""
        origin = self.origin(name)
        return origin != "default" and not origin.startswith("preset ")

    def origin(self, name: str) -> str:
        """Where `name` comes from: `flag`, `SPT_TRAIN_LR`, `--set lr=1`, `FILE [train]`, `preset X` or `default`."""
        return self._origins.get(name, "default")

    def as_toml(self) -> str:
        """The settings of this run as the text of a `--config` file that repeats it."""
        values = self.values | self.extra
        return settings.toml_text(self.command, {key: values.get(name) for name, key in self.keys.items()})

    def where_set(self, name: str | None) -> str | None:
        """The file or variable that set parameter `name`, for an error message; None for a flag or a default."""
        origin = self._origins.get(name or "", "default")
        return None if origin in ("flag", "default") else origin

    def load_settings(self, command: Any) -> dict[str, Any]:
        """Defaults for `command` (a dispatch.SptCommand) from --config and --set, keyed by parameter name."""
        self.keys = {param.name: key for key, param in command.keyed_params().items()}
        if getattr(command.module, "HANDS_SETTINGS_ON", False):
            return {}
        found = self._read_settings()
        spellings, extras = command.spellings(), command.extra_settings()
        settings.check_keys(found, {**spellings, **extras}, self.command)
        defaults = {}
        for key, setting in found.items():
            param = spellings.get(key)
            if param is None:
                self._set_extra(key, setting.value, setting.origin)
                continue
            multiple = getattr(param, "multiple", False) or param.nargs == -1
            is_flag = getattr(param, "is_flag", False)
            defaults[param.name] = settings.as_default(setting.value, multiple=multiple, is_flag=is_flag)
            self._origins[param.name] = setting.origin
        for key in extras:
            if text := os.environ.get(settings.variable(self.command, key)):
                self._set_extra(key, settings.from_text(text), settings.variable(self.command, key))
        return defaults

    def _read_settings(self) -> dict[str, Setting]:
        from sptcli.app import COMMANDS

        found: dict[str, Setting] = {}
        if self.flags.config is not None:
            found |= settings.read_config(self.flags.config, self.command, COMMANDS)
        return found | settings.read_sets(self.flags.sets, self.command)

    def _set_extra(self, key: str, value: Any, origin: str) -> None:
        name = key.replace("-", "_")
        self.extra[name] = value
        self.keys[name] = key
        self._origins[name] = origin

    def settle(self, command: Any, ctx: Any) -> None:
        """Note where each parsed value came from, and lay the command's preset over what nobody set."""
        for param in command.own_params():
            source = ctx.get_parameter_source(param.name)
            if source is None or source.name == "DEFAULT_MAP":
                continue
            set_by = [name for name in param.envvar or () if os.environ.get(name)]
            self._origins[param.name] = set_by[0] if source.name == "ENVIRONMENT" else SOURCES[source.name]
        preset = getattr(command.module, "preset", None)
        chosen = preset(dict(ctx.params)) if preset is not None else None
        if chosen is not None:
            self._overlay(*chosen, params=ctx.params, extras=command.extra_settings())
        self.values = dict(ctx.params)
        self.opened = True

    def warn_of_unknown_variables(self, command: Any) -> None:
        """Warn of SPT_<CMD>_... variables that set nothing; a misspelt one would otherwise be silent."""
        known = {name for param in command.own_params() for name in param.envvar or ()}
        known |= {settings.variable(self.command, key) for key in command.extra_settings()}
        prefix = settings.variable(self.command, "")
        for name in sorted(os.environ):
            if name.startswith(prefix) and name not in known:
                hint = did_you_mean(name, known)
                self.warn(f"the environment variable {name} sets nothing" + (f"; {hint}" if hint else ""))

    def detail_settings(self) -> None:
        """Under --verbose, tell every setting that is not a default, and where it comes from."""
        for name, key in self.keys.items():
            if self.origin(name) != "default":
                value = (self.values | self.extra).get(name)
                self.detail(f"setting {key} = {settings.as_text(value)} ({self.origin(name)})")

    def _overlay(
        self, name: str, values: Mapping[str, Any], *, params: dict[str, Any], extras: Mapping[str, Any]
    ) -> None:
        for key, value in values.items():
            if key not in params and settings.dashed(key) not in extras:
                raise KeyError(f"preset {name!r} sets {key!r}, which is no setting of {self.command!r}")
            if self.origin(key) != "default":
                continue
            if key in params:
                params[key] = value
                self._origins[key] = f"preset {name}"
            else:
                self._set_extra(settings.dashed(key), value, f"preset {name}")

    # -- speech -----------------------------------------------------------------------------------------------

    @property
    def wants_json(self) -> bool:
        return self.flags.json or "--json" in before_dashes(self.arguments)

    @property
    def wants_traceback(self) -> bool:
        asked = "--debug" in before_dashes(self.arguments)
        return self.flags.debug or asked or os.environ.get("SPT_DEBUG", "") not in ("", "0")

    @property
    def is_leader(self) -> bool:
        """Whether this process speaks: rank 0 of a distributed run, or the only one."""
        alone = os.environ.get("WORLD_SIZE", "") in ("", "0", "1")  # a RANK left over in the shell counts for nothing
        return alone or os.environ.get("RANK", "") in ("", "0")

    @cached_property
    def progress(self) -> Progress:
        """The listener a job reports to: a bar, plain lines, JSON lines or nothing, on stderr."""
        from sptcli.progress import choose_progress

        return choose_progress(self.flags, leader=self.is_leader)

    def close(self) -> None:
        """Leave the terminal as it was: no bar, cursor visible."""
        listener = self.__dict__.get("progress")
        if listener is not None and hasattr(listener, "close"):
            listener.close()

    def note(self, message: str) -> None:
        """One line on stderr a person should read now; silent under --quiet."""
        self.progress.note(message)

    def detail(self, message: str) -> None:
        """One line on stderr under --verbose."""
        if self.flags.verbose:
            self.progress.note(message)

    def warn(self, message: str) -> None:
        """One line on stderr a person should not miss."""
        self.progress.warn(message)

    def show(self, document: Mapping[str, object], *views: Any) -> None:
        """The result: `document` for --json (keys are merged over several calls), `views` for people, on stdout.

        A view is a text or what console.table() and console.pairs() return.
        """
        self.document.update(document)
        if views and self.is_leader and not self.wants_json:
            from sptcli.console import print_views

            print_views(views)

    def finish(self, *, artefacts: Mapping[str, object] | None = None, next: str | None = None) -> None:
        """The end of a long command: the paths it wrote, and the command a person would type next."""
        if artefacts:
            self.document["artefacts"] = dict(artefacts)
        if next:
            self.document["next"] = next
        from sptcli.progress import Remarks

        if isinstance(self.progress, Remarks):
            self.progress.end(artefacts or {}, next)
