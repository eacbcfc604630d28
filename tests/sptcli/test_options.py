"""The parsers of shared options: what they take, what they refuse, and that text survives the round trip."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import typer

from sptcli.app import COMMANDS
from sptcli.dispatch import flag_name, load, takes_list
from sptcli.options import (
    Names,
    Numbers,
    Shard,
    Size,
    as_typed,
    parse_names,
    parse_numbers,
    parse_positive_ratio,
    parse_ratio,
    parse_shard,
    parse_size,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_size, "1280x800", Size(1280, 800)),
        (parse_size, "64X32", Size(64, 32)),
        (parse_size, "64×32", Size(64, 32)),
        (parse_shard, "2/8", Shard(2, 8)),
        (parse_names, "car, bus", Names(("car", "bus"))),
        (parse_names, "val,train, val", Names(("val", "train"))),
        (parse_numbers, ".05,.1", Numbers((0.05, 0.1))),
        (parse_ratio, "0.2", Fraction(1, 5)),
        (parse_positive_ratio, "0.2", Fraction(1, 5)),
        (parse_ratio, "1/3", Fraction(1, 3)),
        (parse_ratio, "0", Fraction(0)),
        (parse_ratio, "1", Fraction(1)),
    ],
)
def test_what_is_taken(parse: Callable, text: str, value: object) -> None:
    assert parse(text) == value
    assert parse(value) == value
    assert parse(value.as_flag() if hasattr(value, "as_flag") else str(value)) == value  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_size, text) for text in ("", "12", "x", "0x5", "12x", "-1x5", "1.5x2", "70000x1", "1x2x3")]
    + [(parse_shard, text) for text in ("", "0/2", "3/2", "a/b", "1", "-1/2")]
    + [(parse_names, text) for text in ("", "a,,b", ",")]
    + [(parse_numbers, text) for text in ("", "a", "1,nan", "inf", "1,,2")]
    + [(parse_positive_ratio, text) for text in ("-1", "0", "0.0", "1.5", "nan", "20%")]
    + [(parse_ratio, text) for text in ("-1", "1.5", "nan", "inf", "20%", "", "1/0", "x")],
)
def test_what_is_refused(parse: Callable, text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse(text)


def test_a_data_set_is_typed_so_that_the_shell_takes_it() -> None:
    assert as_typed("coco-s20") == "coco-s20"
    assert as_typed(Path("odd [red] dir/x"), Path("/data sets")) == "'odd [red] dir/x' --root '/data sets'"
    assert as_typed("-x.jpg", ann=None, format="auto", split="train", strict=False, follow_symlinks=True) == (
        "./-x.jpg --split train --follow-symlinks"
    )


def _flags_of_lists() -> list[tuple[str, str]]:
    commands = {name: load(name, entry) for name, entry in COMMANDS.items()}
    return [
        (name, flag_name(param))
        for name, command in commands.items()
        for param in command.own_params()
        if takes_list(param)
    ]


def _parsed(command: str, *arguments: str) -> object:
    """The value of the option that `arguments` begin with, as the command's parser reads them."""
    loaded = load(command, COMMANDS[command])
    found, _, _ = loaded.make_parser(loaded.context_class(loaded)).parse_args([*arguments])
    (param,) = (one for one in loaded.params if arguments[0] in one.opts)
    return found[param.name]


def test_the_lists_of_the_command_line() -> None:
    found = {f"{command} --{flag}" for command, flag in _flags_of_lists()}
    assert {
        "profile --model",
        "profile --ratio",
        "evaluate --by-ratio",
        "train --log",
        "make-labels --strides",
    } <= found
    assert not found & {"train --model", "make-labels --merge", "train --devices"}


@pytest.mark.parametrize(("command", "flag"), _flags_of_lists())
def test_a_list_given_in_parts_adds_up(command: str, flag: str) -> None:
    assert _parsed(command, f"--{flag}", "a,b", f"--{flag}=c") == "a,b,c"
    assert _parsed(command, f"--{flag}", "a") == "a"


def test_of_a_single_value_the_last_one_holds() -> None:
    assert _parsed("train", "--model", "swin-t", "--model", "spt-t") == "spt-t"
