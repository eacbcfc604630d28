"""From outcomes to one table: mean and spread over seeds beside the paper's figure, and what differs from the paper."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sptcore.plans.outcome import Outcome
from sptcore.plans.schema import Plan, RowPlan, SetPlan
from sptcore.plans.trends import Verdict, judge

TITLES = {
    "bbox.AP": "box AP", "bbox.AP50": "box AP50", "bbox.AP75": "box AP75", "segm.AP": "mask AP",
    "label.mAP": "mAP", "class.top1": "top-1", "class.top5": "top-5", "params_m": "params M",
    "macs_g": "GMACs", "macs_eval_g": "GMACs in inference", "macs_actual_g": "GMACs that run",
    "macs_at_paper_g": "GMACs at the paper's ratio", "backbone_g": "backbone GMACs",
    "select_ratio": "selected %", "label_ratio": "labelled %", "recall": "recall %",
    "select_ratio.stage3": "selected % stage 3", "select_ratio.stage4": "selected % stage 4",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A figure of a row: `mean` over `seeds` runs and its `spread` (sample standard deviation, from two on), and what
    the paper prints; None where there is nothing. Shares are in per cent.
    """

    mean: float | None
    spread: float | None
    seeds: int
    paper: float | None

    @classmethod
    def of(cls, values: Sequence[float | None], paper: float | None) -> Cell:
        """The cell of a value a seed; a seed without the figure does not count."""
        there = [value for value in values if value is not None]
        if not there:
            return cls(None, None, 0, paper)
        spread = statistics.stdev(there) if len(there) > 1 else None
        return cls(statistics.fmean(there), spread, len(there), paper)


@dataclass(frozen=True)
class TableRow:
    """A row: its plan, the model trained, the seeds that are finished, a cell a column."""

    plan: RowPlan
    model: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A plan's table at a scale. `sets`: origin and number of images of each set; `differs`: from the paper."""

    plan: Plan
    scale: str
    rows: tuple[TableRow, ...]
    verdicts: tuple[Verdict, ...]
    sets: dict[str, Any]

    @property
    def finished(self) -> int:
        """Rows with at least one run."""
        return sum(bool(row.seeds) for row in self.rows)

    @property
    def differs(self) -> list[str]:
        """What is not the paper's: of the scale, of the data, and rows that are left out."""
        said = [f"{self.plan.data[name].title}: {_told(one, self.plan.data[name])}" for name, one in self.sets.items()]
        kept = {row.plan.key for row in self.rows}
        left = [row.label for row in self.plan.rows if row.key not in kept]
        own = list(self.plan.scale(self.scale).differs)
        return own + said + ([f"left out at this scale: {', '.join(left)}"] if left else [])


def _told(one: Mapping[str, Any], plan: SetPlan) -> str:
    origin = "the built-in sample" if one["origin"] == "sample" else "the data given"
    counts = ", ".join(f"{count} {split}" for split, count in one["images"].items())
    learned = "" if one["split"] == "train" else f"; learned from {one['split']}"
    labels = ""
    if plan.labels is not None:
        outlined = one.get("kind") == plan.labels
        labels = f"; labels {plan.labels} of the 10K images" if outlined else "; boxes of the detection set, no masks"
    return f"{origin}, images: {counts}{learned}{labels}"


def tabulate(plan: Plan, scale: str, outcomes: Mapping[str, Sequence[Outcome]], sets: Mapping[str, Any]) -> Table:
    """The table of all rows of a scale from the outcomes there are."""
    rows = []
    for row in plan.rows_at(scale):
        mine = outcomes.get(row.key, ())
        cells = {column: Cell.of([one.value(column) for one in mine], row.paper.get(column)) for column in plan.columns}
        seeds, devices = tuple(one.seed for one in mine), tuple(dict.fromkeys(one.device for one in mine))
        rows.append(TableRow(row, plan.variant(row, scale), seeds, cells, devices))
    there = {key: list(some) for key, some in outcomes.items() if some}
    verdicts = [judge(trend, there) for trend in plan.trends if _applies(plan, scale, trend.mentioned)]
    return Table(plan, scale, tuple(rows), tuple(verdicts), dict(sets))


def _applies(plan: Plan, scale: str, keys: Sequence[str]) -> bool:
    return set(keys) <= {row.key for row in plan.rows_at(scale)}
