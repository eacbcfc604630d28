"""Cutting sparse sets in tests, and looking at what came out."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

from sptcore.data.locate import locate, open_index
from sptcore.data.sparse import SparsePlan, SparseReport, SparseRule, make_sparse

FIFTH = Fraction("0.2")


def make(root: Path, out: Path, rule: SparseRule | Fraction = FIFTH, **plan) -> SparseReport:
    """make_sparse of the set at `root`; `plan` are fields of SparsePlan."""
    rule = rule if isinstance(rule, SparseRule) else SparseRule(rule)
    return make_sparse(locate(root), rule, out, SparsePlan(**plan))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(out: Path) -> list[dict[str, str]]:
    """The lines of ratios.csv."""
    with (out / "ratios.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def kept_ids(out: Path, split: str = "train") -> list[int]:
    """The images of a set, read again."""
    return [record.image_id for record in open_index(out, split).records]
