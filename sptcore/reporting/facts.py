"""What is known of a run without running it again: its model, its best validation, its cost, its settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sptcore.models.selectors import bound_note
from sptcore.profiling.macs import StageCost, backbone_macs, spa_places
from sptcore.runs import Run
from sptcore.runs.models import parse_spec
from sptcore.tasks import TASKS
from sptcore.tasks.base import ModelSpec


@dataclass(frozen=True)
class Cost:
    """MACs of the backbone for one image of the run's resolution, every block at the ratio its stage was measured at.

    `actual`: what runs; `eq9`: the paper's count; `dense`: the same blocks with every token selected.
    """

    actual: int
    eq9: int
    dense: int
    stages: tuple[StageCost, ...]


@dataclass(frozen=True)
class RunFacts:
    """A run folder or lone weights file, read once.

    `figures`: the validation by which the best weights were chosen (`bbox.AP`, `select_ratio.stage3` ...), empty for a
    lone weights file; `step` and `epoch` say when. `rows`: metrics.jsonl. `settings`: the table [train] of config.toml.
    """

    run: Run
    spec: ModelSpec
    params: int
    figures: dict[str, float]
    cost: Cost
    step: int | None = None
    epoch: float | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's folder or the weights' file."""
        return self.run.name

    @property
    def seconds(self) -> float:
        """Training time as far as the metrics tell, validations included."""
        return sum(row.get("seconds", 0.0) for row in self.rows)

    @property
    def bound(self) -> str:
        """What has to stand beside the figures of a model that selects by labels; empty for all others."""
        backbone = self.spec.backbone
        return bound_note(backbone.selector) if backbone.num_spa_blocks else ""

    def validations(self) -> list[dict[str, Any]]:
        """The rows that hold a validation, oldest first."""
        return [row for row in self.rows if any(name.startswith("val.") for name in row)]


def read_facts(run: Run) -> RunFacts:
    """Everything a run folder or weights file says of itself.

    Raises DataError for a run without weights, IntegrityError for files that are not what they should be.
    """
    spec = parse_spec(run.info)
    params = sum(parameter.numel() for parameter in TASKS[spec.task].build_model(spec).parameters())
    if run.folder is None:
        step = run.info.notes.get("step")
        return RunFacts(run, spec, params, {}, cost_of(spec, {}), step)
    rows = run.metrics()
    best = best_validation(rows, next(iter(TASKS[spec.task].figures)))
    figures = {name.removeprefix("val."): value for name, value in best.items() if name.startswith("val.")}
    return RunFacts(
        run=run,
        spec=spec,
        params=params,
        figures={name: value for name, value in figures.items() if told(name, value)},
        cost=cost_of(spec, figures),
        step=best.get("step"),
        epoch=best.get("epoch"),
        rows=rows,
        settings=dict(run.config.get("train", {})),
        environment=_environment(run),
    )


def best_validation(rows: Sequence[dict[str, Any]], figure: str) -> dict[str, Any]:
    """The row of the best `figure`, the later of equals, as the best weights are chosen; {} without a validation."""
    scored = [row for row in rows if f"val.{figure}" in row]
    return max(reversed(scored), key=lambda row: row[f"val.{figure}"], default={})


def accuracy_words(runs: Iterable[RunFacts]) -> dict[str, str]:
    """The figures worth telling of these runs' tasks, as name -> words."""
    return {name: words for facts in runs for name, words in TASKS[facts.spec.task].figures.items()}


def told(name: str, value: float) -> bool:
    """Whether a figure says something: COCO writes -1 where there is no such object."""
    return math.isfinite(value) and not (value < 0 and "." in name)


def cost_of(spec: ModelSpec, figures: dict[str, float]) -> Cost:
    """MACs at the ratios in `figures` (`select_ratio.stage3` ...); a stage without one counts as all selected.

    Where the model's own settings fix the ratios of its blocks, at these. Tokens that attend within windows are taken
    to lie in as few as hold them, which labels' scattered ones do not.
    """
    width, height = spec.resolution
    measured = [figures.get(f"select_ratio.stage{stage}", 1.0) for stage, _ in spa_places(spec.backbone)]
    stages = backbone_macs(spec.backbone, height, width, spec.backbone.fixed_ratios or measured)
    dense = backbone_macs(spec.backbone, height, width, 1.0)
    return Cost(
        sum(stage.macs for stage in stages),
        sum(stage.macs_eq9 for stage in stages),
        sum(stage.macs for stage in dense),
        tuple(stages),
    )


def _environment(run: Run) -> dict[str, Any]:
    path = run.home / "env.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
