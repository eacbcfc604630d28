"""The option types commands share: one spelling, one help text, one parser for each.

A command writes `data: options.Data, res: options.Res = None`. Values that are not plain text have a type here with a
parser that raises a usage error (exit 2) and `as_flag()`, the text a person would type. A list is parted by commas, is
spelt `NAME,..` in its metavar, and may be given in parts: `--model a --model b` is `--model a,b`.
"""

from __future__ import annotations

import math
import shlex
from fractions import Fraction
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

READING = "Reading data"  # the help panel of options about how data is read
LIST_MARK = ",.."  # in the metavar of every option that takes a list; such a one, given again, adds up


def as_typed(data: object, root: Path | str | None = None, **found_by: object) -> str:
    """The data set or image as a person types it for the next command: quoted for the shell, with the --root and the
    other options it was found by (`ann`, `format`, `split`, `follow_symlinks` ...); None, "auto" and False stay unsaid.
    """
    name = f"./{data}" if str(data).startswith("-") else str(data)
    typed = [shlex.quote(name)]
    for option, value in {"root": root, **found_by}.items():
        if value not in (None, "auto", False):
            typed.append("--" + option.replace("_", "-"))
            typed += [] if value is True else [shlex.quote(str(value))]
    return " ".join(typed)


class Size(NamedTuple):
    """Pixels, width first, as a person writes 1280x800."""

    width: int
    height: int

    def as_flag(self) -> str:
        return f"{self.width}x{self.height}"

    def __str__(self) -> str:
        return self.as_flag()


class Shard(NamedTuple):
    """Part `index` (1-based) of `count`, as a person writes 2/8."""

    index: int
    count: int

    def as_flag(self) -> str:
        return f"{self.index}/{self.count}"

    def __str__(self) -> str:
        return self.as_flag()


class Names(tuple[str, ...]):
    """Comma-separated names."""

    def as_flag(self) -> str:
        return ",".join(self)

    def __str__(self) -> str:
        return self.as_flag()


class Numbers(tuple[float, ...]):
    """Comma-separated numbers."""

    def as_flag(self) -> str:
        return ",".join(f"{number:g}" for number in self)

    def __str__(self) -> str:
        return self.as_flag()


def parse_size(text: str | Size) -> Size:
    """`1280x800` as Size; raises a usage error for anything else."""
    if isinstance(text, Size):
        return text
    width, cross, height = str(text).lower().replace("×", "x").partition("x")
    if not (cross and width.strip().isdecimal() and height.strip().isdecimal()):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, such as 1280x800")
    size = Size(int(width), int(height))
    if not (1 <= size.width <= 65_535 and 1 <= size.height <= 65_535):
        raise typer.BadParameter(f"{text!r}: a side has 1 to 65535 pixels")
    return size


def parse_shard(text: str | Shard) -> Shard:
    """`2/8` as Shard(2, 8)."""
    if isinstance(text, Shard):
        return text
    index, slash, count = str(text).partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise typer.BadParameter(f"{text!r} is not K/N with 1 <= K <= N, such as 2/8")
    return Shard(int(index), int(count))


def parse_names(text: str | Names) -> Names:
    """`car,bus` as Names; a name given twice counts once."""
    parts = text if isinstance(text, tuple) else str(text).split(",")
    names = Names(dict.fromkeys(part.strip() for part in parts))
    if not names or not all(names):
        raise typer.BadParameter(f"{text!r} is not a list of names parted by commas")
    return names


def parse_numbers(text: str | Numbers) -> Numbers:
    """`.05,.1` as Numbers; raises a usage error for text that is no finite number."""
    try:
        numbers = Numbers(float(part) for part in (text if isinstance(text, tuple) else str(text).split(",")))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers parted by commas") from None
    if not all(math.isfinite(number) for number in numbers):
        raise typer.BadParameter(f"{text!r}: every number is finite")
    return numbers


def parse_ratio(text: str | Fraction) -> Fraction:
    """A ratio in 0..1 as the exact fraction that was typed (`0.2` is 1/5); `20%`, `nan` and 1.5 are usage errors."""
    try:
        ratio = text if isinstance(text, Fraction) else Fraction(str(text).strip())
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is not a ratio between 0 and 1, such as 0.2") from None
    if not 0 <= ratio <= 1:
        raise typer.BadParameter(f"{text} is not between 0 and 1")
    return ratio


def parse_positive_ratio(text: str | Fraction) -> Fraction:
    """As `parse_ratio`, without 0."""
    ratio = parse_ratio(text)
    if ratio == 0:
        raise typer.BadParameter("0 would keep nothing; give a ratio above 0, such as 0.2")
    return ratio


def complete_data(incomplete: str) -> list[str]:
    """The data names that begin with `incomplete`, for TAB."""
    from sptcore.data import FORMATS

    return [name for name in (*FORMATS, "sample") if name.startswith(incomplete)]


def complete_format(incomplete: str) -> list[str]:
    """The format names that begin with `incomplete`, for TAB."""
    from sptcore.data import FORMATS

    return [name for name in ("auto", *FORMATS) if name.startswith(incomplete)]


# What is read
DATA_HELP = "coco, bdd, voc, tiny-imagenet, sample, or a path"
Data = Annotated[str, typer.Argument(metavar="DATA", autocompletion=complete_data, help=DATA_HELP)]
DataOption = Annotated[str, typer.Option("--data", autocompletion=complete_data, help=DATA_HELP)]
Root = Annotated[Path | None, typer.Option("--root", metavar="DIR", help="the folder the data set lies in")]
Ann = Annotated[
    Path | None, typer.Option("--ann", metavar="FILE", help="the annotation file, instead of the layout's own")
]
Format = Annotated[
    str, typer.Option("--format", autocompletion=complete_format, help="auto, coco, bdd, voc or tiny-imagenet")
]
Split = Annotated[str, typer.Option("--split", help="train or val")]
Splits = Annotated[Names, typer.Option("--splits", parser=parse_names, metavar="NAME,..", help="the splits to read")]

# How it is read (every command that reads data takes these four)
Strict = Annotated[bool, typer.Option("--strict", rich_help_panel=READING, help="stop at the first faulty annotation")]
FollowSymlinks = Annotated[
    bool, typer.Option("--follow-symlinks", rich_help_panel=READING, help="images may be links that leave the root")
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", rich_help_panel=READING, help="read images whose end is missing")
]
AnnotatedSize = Annotated[
    Size | None,
    typer.Option(
        "--size",
        parser=parse_size,
        metavar="WxH",
        rich_help_panel=READING,
        help="image size, where the annotations have none",
    ),
]

# What is run, and where
Model = Annotated[str, typer.Option("--model", help="a model name; see: spt models")]
Res = Annotated[Size | None, typer.Option("--res", parser=parse_size, metavar="WxH", help="input resolution")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Ratio = Annotated[Fraction | None, typer.Option(parser=parse_ratio, metavar="R")]

# What is written
Out = Annotated[Path | None, typer.Option("--out", metavar="PATH", help="where the result goes")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="the run folder, instead of a new one under runs/")
]
Force = Annotated[bool, typer.Option("--force", help="replace an existing output")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, write nothing")]
Resume = Annotated[bool, typer.Option("--resume", help="go on where an interrupted run stopped")]

# How the work is shared
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="worker processes")]
ShardOption = Annotated[Shard | None, typer.Option("--shard", parser=parse_shard, metavar="K/N", help="do part K of N")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="seed of every random draw")]
