"""docs/paper.md names functions; every one of them exists."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "paper.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(sptcore(?:\.\w+)+)`", TEXT)))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_paper_map_can_be_imported(name):
    assert resolve(name) is not None


def test_every_equation_has_a_line():
    numbers = {int(number) for row in re.findall(r"^\| Eq\. ([\d, to]+) \|", TEXT, re.M) for number in span(row)}
    assert numbers == set(range(1, 11))
    assert len(NAMES) > 15


def test_a_name_that_does_not_exist_is_noticed():
    with pytest.raises((AttributeError, ImportError)):
        resolve("sptcore.ops.packing.no_such_function")


def span(text):
    """The numbers of "2, 3" or "7 to 9"."""
    if "to" in text:
        first, last = (int(part) for part in text.split("to"))
        return range(first, last + 1)
    return [int(part) for part in text.split(",")]


def resolve(name):
    """The object behind a dotted name: the longest importable module, then attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            target = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            target = getattr(target, part)
        return target
    raise ModuleNotFoundError(name)
