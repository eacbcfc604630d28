"""What TAB offers after an option or argument of fixed words: one table, so that no command spells its words twice.

The words stand here because the modules that define them load torch, and TAB answers without it;
`tests/sptcli/test_completion.py` holds them against these modules. Choices typed as `Literal` complete by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import sptcore
from sptcli.options import LIST_MARK, complete_data

Words = Iterable[str] | Callable[[Any], Iterable[str]]

SIZES = {
    **dict.fromkeys(("swin", "spt", "dynamicswin", "dat"), ("nano", "t", "s", "b")),
    **dict.fromkeys(("topk-windows", "topk-tokens", "swin-gt", "spt-gt"), ("nano", "t", "s", "b")),
    **dict.fromkeys(("vit", "vit-gt", "dynamicvit", "evit"), ("nano", "s", "b")),
}
MODELS = tuple(f"{family}-{size}" for family, sizes in SIZES.items() for size in sizes)
SWITCH = ("off",)
LABELS = ("auto", "boxes", "masks", "image")
WEIGHTS = ("auto", "last")
SPLITS = ("train", "val", "test")


def _files(folder: str) -> list[str]:
    """The names of the TOML files in a folder of the package."""
    return sorted(path.stem for path in Path(sptcore.__file__).parent.joinpath(folder).glob("*.toml"))


def _after_action(ctx: Any) -> Iterable[str]:
    """For `spt config`: the commands; `check` takes a file before one, which the shell completes."""
    from sptcli.app import COMMANDS

    first = not ctx.params.get("words")
    return () if ctx.params.get("action") == "check" and first else COMMANDS


def _data(_: Any) -> Iterable[str]:
    return complete_data("")


OPTIONS: dict[str, Words] = {
    "amp": ("auto", "bf16", "fp16", "off"),
    "batch": ("auto",),
    "bypass": ("identity", "proj"),
    "clip": SWITCH,
    "colormap": ("turbo", "viridis", "inferno", "magma", "plasma", "cividis", "hot", "jet", "bone"),
    "compare": _data,
    "data": _data,
    "device": ("auto", "cpu", "cuda"),
    "devices": ("auto",),
    "ema": SWITCH,
    "executor": ("local",),
    "family": tuple(SIZES),
    "ffn": ("all", "selected"),
    "heads": ("auto", "standard", "small"),
    "init": ("none", "imagenet"),
    "labels": LABELS,
    "log": ("csv", "tensorboard"),
    "metrics": ("ap", "macs", "fps", "ratio", "params", "time"),
    "model": MODELS,
    "packing": ("stream", "aligned"),
    "preset": lambda _: _files("training/presets"),
    "resume": ("auto", "last"),
    "rpb": ("spatial", "slot", "none"),
    "schedule": ("step", "cosine"),
    "split": SPLITS,
    "splits": SPLITS,
    "strides": ("4", "8", "16", "32"),
    "style": ("heat", "mask", "dots"),
    "task": ("detect", "multilabel", "classify"),
    "val-data": _data,
    "val-split": SPLITS,
    "weights": WEIGHTS,
    "workers": ("auto",),
}
"""The words of an option, by its first long name; the same word means the same in every command."""

ARGUMENTS: dict[tuple[str, str], Words] = {
    ("config", "words"): _after_action,
    ("models", "name"): MODELS,
    ("reproduce", "plan"): lambda _: [*_files("plans/papers"), "list"],
    ("evaluate", "run"): WEIGHTS,
    ("export", "weights"): WEIGHTS,
    ("report", "run"): ("last",),
}
"""The words of an argument, by command and Python name."""

OTHERWISE: dict[tuple[str, str], Words] = {
    ("evaluate", "devices"): (),
    ("evaluate", "workers"): (),
    ("evaluate", "labels"): ("auto",),
    ("viz-selection", "blocks"): ("sum", "all"),
}
"""Options that mean something else in one command."""


def complete(command: str, param: Any, name: str) -> None:
    """Let TAB offer the words of `param`, which a person types as `name`, unless it completes by itself already."""
    if param._custom_shell_complete is not None or _has_choices(param) or getattr(param, "is_flag", False):
        return
    if param.param_type_name == "argument":
        words = ARGUMENTS.get((command, param.name))
    else:
        words = OTHERWISE.get((command, name), OPTIONS.get(name))
    if words:
        param._custom_shell_complete = partial(_offered, words)


def _has_choices(param: Any) -> bool:
    """Whether typer knows the words of `param`: a Literal; where that stands changed between its versions."""
    kinds = [getattr(param, place, None) for place in ("type", "type_descriptor")]
    return any(getattr(kind, "choices", None) for kind in kinds)


def _offered(words: Words, ctx: Any, param: Any, incomplete: str) -> list[str]:
    """The words that go on from `incomplete`; in a list parted by commas, those that are not in it yet."""
    known = list(words(ctx) if callable(words) else words)
    if LIST_MARK not in (param.metavar or ""):
        return [word for word in known if word.startswith(incomplete)]
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + word for word in known if word.startswith(last) and word not in before.split(",")]
