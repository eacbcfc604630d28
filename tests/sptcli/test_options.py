"""The parsers of shared options: what they take, what they refuse, and that text survives the round trip."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import typer

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
