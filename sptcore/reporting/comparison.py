"""The job compare: runs side by side, what differs in their settings, accuracy against cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from sptcore.errors import UsageError, did_you_mean
from sptcore.profiling.macs import spa_places
from sptcore.profiling.real import trained_subject
from sptcore.profiling.subjects import DENSE, Built, Case, Selection, Setting
from sptcore.profiling.timing import Protocol, measure
from sptcore.progress import SILENT, Progress
from sptcore.reporting.curves import shared_curves
from sptcore.reporting.facts import RunFacts, accuracy_words, read_facts
from sptcore.runs import Run
from sptcore.runs.models import load_model
from sptcore.viz.charts import Axis, Series, scatter_chart
from sptcore.viz.pages import page, section, table

Value = float | int | None
METRICS = ("ap", "macs", "fps", "ratio", "params", "time")
DEFAULT_METRICS = ("ap", "macs", "ratio", "params")
RECORD_ONLY = frozenset({"preset", "run_dir", "name"})
FPS_PROTOCOL = Protocol(warmup=1, rounds=30, budget=20.0, least=5)


@dataclass(frozen=True)
class Comparison:
    """Runs in the order they were named. `figures`: column -> one value a run; deltas are against the first run.

    `differences`: setting -> its value in every run, for settings that are not the same everywhere.
    """

    runs: tuple[RunFacts, ...]
    figures: dict[str, list[Value]]
    differences: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The runs' names, with a number where two are the same."""
        plain = [facts.name for facts in self.runs]
        return [name if plain.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(plain, 1)]

    def deltas(self, column: str) -> list[Value]:
        """Each run's value less the first one's; None where one of the two is missing."""
        first, *_ = values = self.figures[column]
        return [None if value is None or first is None else value - first for value in values]


def compare(
    runs: Sequence[Run], metrics: Sequence[str] = DEFAULT_METRICS, *, progress: Progress = SILENT
) -> Comparison:
    """Put runs or weights files side by side. `metrics`: some of METRICS; fps runs the backbones, in turns.

    Raises UsageError for fewer than two runs or a metric that does not exist.
    """
    if len(runs) < 2:
        raise UsageError("one run alone compares with nothing", hint="name two runs or more; spt report shows one")
    for name in metrics:
        if name not in METRICS:
            raise UsageError(f"no metric {name!r}", hint=did_you_mean(name, METRICS) or ", ".join(METRICS))
    facts = tuple(read_facts(run) for run in runs)
    figures: dict[str, list[Value]] = {}
    for name in metrics:
        figures |= COLUMNS[name](facts) if name != "fps" else _speeds(facts, progress)
    kept = {name: values for name, values in figures.items() if any(value is not None for value in values)}
    return Comparison(facts, kept, _differences(facts))


def _figures(facts: Sequence[RunFacts], names: dict[str, str]) -> dict[str, list[Value]]:
    return {title: [one.figures.get(name) for one in facts] for name, title in names.items()}


def _accuracy(facts: Sequence[RunFacts]) -> dict[str, list[Value]]:
    return _figures(facts, accuracy_words(facts))


def _macs(facts: Sequence[RunFacts]) -> dict[str, list[Value]]:
    return {
        "GMACs": [one.cost.actual / 1e9 for one in facts],
        "GMACs Eq. 9": [one.cost.eq9 / 1e9 for one in facts],
    }


def _ratios(facts: Sequence[RunFacts]) -> dict[str, list[Value]]:
    stages = sorted({name.rpartition("stage")[2] for one in facts for name in one.figures if "select_ratio" in name})
    names = {f"select_ratio.stage{stage}": f"ratio, stage {stage}" for stage in stages}
    names |= {f"recall.stage{stage}": f"recall, stage {stage}" for stage in stages}
    return _figures(facts, names)


def _params(facts: Sequence[RunFacts]) -> dict[str, list[Value]]:
    return {"params M": [one.params / 1e6 for one in facts]}


def _time(facts: Sequence[RunFacts]) -> dict[str, list[Value]]:
    return {"training s": [one.seconds or None for one in facts]}


COLUMNS: dict[str, Callable[[Sequence[RunFacts]], dict[str, list[Value]]]] = {
    "ap": _accuracy,
    "macs": _macs,
    "ratio": _ratios,
    "params": _params,
    "time": _time,
}


def _speeds(facts: Sequence[RunFacts], progress: Progress) -> dict[str, list[Value]]:
    """Images a second of the backbones at their own resolution and ratios, batch 1, taking turns."""
    calls = {}
    for number, one in enumerate(facts):
        ratios = tuple(one.figures.get(f"select_ratio.stage{stage}", 1.0) for stage, _ in spa_places(one.spec.backbone))
        selection = Selection("validated" if ratios else DENSE, ratios)
        setting = Setting("backbone", one.spec.resolution[1], one.spec.resolution[0])
        built = Built(trained_subject(one.name, load_model(one.run), (selection,)), setting)
        calls[str(number)] = Case(built, selection, setting).inference()
    times = measure(calls, FPS_PROTOCOL, device=torch.device("cpu"), title="timing backbones", progress=progress)
    return {"backbone img/s": [1 / times[str(number)].median for number in range(len(facts))]}


def _differences(facts: Sequence[RunFacts]) -> dict[str, list[str]]:
    """Settings of training and model that are not the same in all runs."""
    plain = [{**one.settings, **_model_settings(one)} for one in facts]
    names = dict.fromkeys(name for settings in plain for name in settings)
    found = {name: [str(settings.get(name, "–")) for settings in plain] for name in names if name not in RECORD_ONLY}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _model_settings(facts: RunFacts) -> dict[str, object]:
    spec = facts.spec
    settings: dict[str, object] = {"model": spec.variant, "task": spec.task, "resolution": spec.resolution}
    settings["classes"] = len(spec.categories)
    return settings | {f"backbone.{name}": value for name, value in spec.backbone.to_dict().items()}


def grid(found: Comparison) -> tuple[list[str], list[list[object]]]:
    """Columns and rows: one column a run, one row a figure, in brackets its difference from the first run's."""
    rows: list[list[object]] = [["model", *(facts.spec.variant for facts in found.runs)]]
    if any(facts.bound for facts in found.runs):
        rows.append(["note", *(facts.bound or None for facts in found.runs)])
    for name, values in found.figures.items():
        cells = zip(values, found.deltas(name), strict=True)
        rows.append([name, *(_with_delta(value, delta, number > 0) for number, (value, delta) in enumerate(cells))])
    return ["", *found.names], rows


def _with_delta(value: Value, delta: Value, shown: bool) -> str | None:
    if value is None:
        return None
    return f"{value:.4g} ({delta:+.3g})" if shown and delta is not None else f"{value:.4g}"


def to_dict(found: Comparison) -> dict[str, object]:
    """Plain values: figures and deltas by run, differing settings."""
    return {
        "runs": [
            {
                "name": found.names[number],
                "path": str(facts.run.folder or facts.run.weights_file),
                "model": facts.spec.variant,
                "note": facts.bound,
                "figures": {name: values[number] for name, values in found.figures.items()},
                "deltas": {name: found.deltas(name)[number] for name in found.figures},
            }
            for number, facts in enumerate(found.runs)
        ],
        "differences": found.differences,
    }


def to_csv(found: Comparison) -> str:
    """One line a run, figures without their differences."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "model", *found.figures])
    for number, facts in enumerate(found.runs):
        writer.writerow(
            [found.names[number], facts.spec.variant, *(values[number] for values in found.figures.values())]
        )
    return text.getvalue()


def to_markdown(found: Comparison) -> str:
    """Two tables: figures with differences, settings that differ."""
    columns, rows = grid(found)
    parts = [_markdown(columns, rows)]
    if found.differences:
        settings = [[name, *values] for name, values in found.differences.items()]
        parts.append(_markdown(["setting", *found.names], settings))
    return "\n".join(parts)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        return "-" if value is None else str(value).replace("|", "\\|")

    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def to_html(found: Comparison) -> str:
    """A page that stands alone: figures, accuracy against cost, curves, settings that differ."""
    columns, rows = grid(found)
    charts = [*accuracy_cost(found), *shared_curves(found.runs)]
    sections = [section("Figures", table(columns, rows))]
    if charts:
        sections.append(section("Accuracy, cost and curves", f'<div class="grid">{"".join(charts)}</div>'))
    if found.differences:
        settings = [[name, *values] for name, values in found.differences.items()]
        sections.append(section("Settings that differ", table(["setting", *found.names], settings)))
    note = (
        "Differences are against the first run. Gaps of a few tenths of AP between single runs say nothing: use seeds."
    )
    return page("Runs compared", note, sections)


def accuracy_cost(found: Comparison) -> list[str]:
    """The figure that decides against backbone MACs, and against images a second where they were measured."""
    accuracy = next(iter(accuracy_words(found.runs).values()))
    costs = {
        "GMACs": Axis("backbone GMACs an image", from_zero=True),
        "backbone img/s": Axis("backbone images a second"),
    }
    charts = []
    for column, axis in costs.items():
        pairs = zip(found.names, found.figures.get(column, []), found.figures.get(accuracy, []), strict=False)
        series = [Series(name, [(cost, ap)]) for name, cost, ap in pairs if cost is not None and ap is not None]
        charts.append(scatter_chart("Accuracy against cost", series, axis, Axis(accuracy, percent=True)))
    return [chart for chart in charts if chart]
