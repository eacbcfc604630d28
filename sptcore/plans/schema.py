"""What a run plan says: data sets and how they are cut, rows, scales, the paper's figures and where they are from.

A plan is a TOML file. `load_plan` reads one of the package by its name (`table1` ... `fig5`) or any file by its path;
what it does not know is refused with a suggestion, and every row's settings are settings of training.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sptcore.data.padding import NO_PADDING, parse_padding
from sptcore.errors import UsageError, did_you_mean
from sptcore.training.config import TrainConfig, load_preset, make_config

PLANS = Path(__file__).with_name("papers")
ScaleName = Literal["smoke", "small", "paper"]
SCALES: tuple[ScaleName, ...] = ("smoke", "small", "paper")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetPlan(_Part):
    """A data set of a plan: the format it is cut from, what is learned on it, and the cut.

    `max_ratio`: images below this object-pixel ratio (make-sparse); `pad`: canvas of IN-S. `official`: images of each
    split of the uncut set as its makers publish it. `labels`: BDD100K's labels that are taken where they and their
    images are there; else what the reader finds.
    """

    title: str
    source: Literal["coco", "bdd", "voc", "tiny-imagenet"]
    task: str
    max_ratio: str | None = None
    pad: str | None = None
    labels: Literal["ins_seg"] | None = None
    official: dict[str, int] = Field(default_factory=dict)

    @property
    def ratio(self) -> Fraction | None:
        """`max_ratio` as the exact fraction."""
        return None if self.max_ratio is None else Fraction(self.max_ratio)

    @property
    def canvas(self) -> tuple[int, int]:
        """`pad` as columns and rows."""
        return NO_PADDING if self.pad is None else parse_padding(self.pad)


class RowPlan(_Part):
    """A row: a model family and size on a data set, with the settings that make it this row.

    `smoke`, `small`: settings on top at that scale; `not_at`: scales without this row. `paper`: what the paper prints,
    by column, in the column's unit; `paper_ratio`: the select ratio at which its MACs are given besides.
    """

    key: str
    label: str
    model: str
    size: str
    data: str
    settings: dict[str, Any] = Field(default_factory=dict)
    smoke: dict[str, Any] = Field(default_factory=dict)
    small: dict[str, Any] = Field(default_factory=dict)
    not_at: tuple[ScaleName, ...] = ()
    paper: dict[str, float] = Field(default_factory=dict)
    paper_source: str = ""
    paper_ratio: float | None = Field(default=None, ge=0, le=1)

    def settings_at(self, scale: str) -> dict[str, Any]:
        """The row's own settings at a scale."""
        return self.settings | {"smoke": self.smoke, "small": self.small}.get(scale, {})


class ScalePlan(_Part):
    """How much of the paper a scale does. `sizes`: model sizes in place of the rows' (rows of others are left out;
    empty: all as they are). `limit`: images a split. `recipes`: per task a preset and settings. `differs`: in words.
    """

    seeds: int = Field(default=1, ge=1)
    sizes: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=2)
    recipes: dict[str, dict[str, Any]]
    differs: tuple[str, ...] = ()


class TrendPlan(_Part):
    """A trend of the paper. `follows_labels`: the select ratio of each of `rows` is near its label ratio. `above`:
    column `column` is higher in row `more` than in row `less`; `equal`: tellable only where this column is alike.
    """

    kind: Literal["follows_labels", "above"]
    text: str
    rows: tuple[str, ...] = ()
    column: str | None = None
    more: str | None = None
    less: str | None = None
    equal: str | None = None

    @property
    def mentioned(self) -> tuple[str, ...]:
        """Every row the trend speaks of."""
        return tuple(key for key in (*self.rows, self.more, self.less) if key is not None)


class Plan(_Part):
    """A table or figure of the paper. `pictures`: so many images with heat maps of the selecting rows beside it."""

    title: str
    columns: tuple[str, ...]
    data: dict[str, SetPlan]
    rows: tuple[RowPlan, ...]
    scales: dict[ScaleName, ScalePlan]
    notes: tuple[str, ...] = ()
    trends: tuple[TrendPlan, ...] = ()
    pictures: int = 0
    name: str = ""

    def rows_at(self, scale: str) -> list[RowPlan]:
        """The rows a scale has, in order."""
        sizes = self.scale(scale).sizes
        return [row for row in self.rows if (not sizes or row.size in sizes) and scale not in row.not_at]

    def scale(self, scale: str) -> ScalePlan:
        """The scale of that name. Raises UsageError."""
        if scale not in self.scales:
            raise UsageError(f"no scale '{scale}'", hint=did_you_mean(scale, SCALES) or f"one of: {', '.join(SCALES)}")
        return self.scales[scale]  # type: ignore[index]

    def variant(self, row: RowPlan, scale: str) -> str:
        """The model a row trains at a scale."""
        return f"{row.model}-{self.scale(scale).sizes.get(row.size, row.size)}"

    def config(self, row: RowPlan, scale: str, **place: Any) -> TrainConfig:
        """The training of a row: preset, recipe of the scale, the row's settings, then `place` (data, seed, device).

        Raises UsageError for settings that do not exist.
        """
        task = self.data[row.data].task
        recipe = dict(self.scale(scale).recipes[task])
        values = load_preset(recipe.pop("preset")) if "preset" in recipe else {}
        values |= recipe | row.settings_at(scale) | {"task": task, "model": self.variant(row, scale), "keep": 1}
        return make_config(values | place, where=f"{self.name}, row {row.key}")

    def configs(self) -> Iterator[tuple[str, RowPlan, TrainConfig]]:
        """Every training of every scale, without data: what a check of a plan walks through."""
        for scale in self.scales:
            for row in self.rows_at(scale):
                yield scale, row, self.config(row, scale)


def plan_names() -> list[str]:
    """The plans of the package: table1 ... fig5."""
    return sorted((path.stem for path in PLANS.glob("*.toml")), key=lambda name: (not name.startswith("table"), name))


def load_plan(name: str) -> Plan:
    """The plan called `name`, or the one in the file `name`. Raises UsageError for what is no plan."""
    path = PLANS / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        hint = did_you_mean(name, plan_names()) or f"plans: {', '.join(plan_names())}; or a TOML file"
        raise UsageError(f"no plan '{name}'", hint=hint)
    return parse_plan(plan_text(path), path.stem, where=str(path))


def plan_text(path: Path) -> str:
    """The text of a plan's file. Raises UsageError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the plan: {error}", where=str(path)) from error


def parse_plan(text: str, name: str, *, where: str | None = None) -> Plan:
    """A plan from the text of its TOML file. Raises UsageError with the key and, for a misspelt one, a suggestion."""
    try:
        plan = Plan.model_validate({**tomllib.loads(text), "name": name})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}", where=where) from error
    except ValidationError as error:
        raise _as_usage(error, where) from None
    _check_names(plan, where)
    return plan


def _as_usage(error: ValidationError, where: str | None) -> UsageError:
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return UsageError(f"{place}: {first['msg']}", where=where)
    fields = {name for part in _PARTS for name in part.model_fields}
    return UsageError(f"unknown key '{place}'", where=where, hint=did_you_mean(str(first["loc"][-1]), fields))


_PARTS: tuple[type[_Part], ...] = (Plan, SetPlan, RowPlan, ScalePlan, TrendPlan)


def _check_names(plan: Plan, where: str | None) -> None:
    """Raise UsageError for a name that leads nowhere: of a data set, a row, a column, a task without a recipe."""
    keys = [row.key for row in plan.rows]
    if len(set(keys)) < len(keys):
        raise UsageError("two rows have the same key", where=where)
    for row in plan.rows:
        _known(row.data, plan.data, "data set", where)
        for column in row.paper:
            _known(column, plan.columns, "column", where)
        if row.paper and not row.paper_source:
            raise UsageError(f"row {row.key}: the paper's figures without a source", where=where)
    for trend in plan.trends:
        for key in trend.mentioned:
            _known(key, keys, "row", where)
        for column in filter(None, (trend.column, trend.equal)):
            _known(column, plan.columns, "column", where)
    for name, scale in plan.scales.items():
        for row in plan.rows_at(name):
            _known(plan.data[row.data].task, scale.recipes, f"recipe at scale {name} for task", where)


def _known(name: str, choices: Mapping[str, Any] | tuple[str, ...] | list[str], what: str, where: str | None) -> None:
    if name not in choices:
        raise UsageError(f"no {what} '{name}' in the plan", where=where, hint=did_you_mean(name, choices))
