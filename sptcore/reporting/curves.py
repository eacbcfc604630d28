"""The curves of runs: losses, accuracy, selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sptcore.reporting.facts import RunFacts, accuracy_words, told
from sptcore.viz.charts import Axis, Series, line_chart

EPOCH = Axis("epoch")
SHARE = Axis("", percent=True, from_zero=True)


def series_of(rows: Sequence[dict[str, Any]], name: str, title: str) -> Series:
    """The values of a column over epochs, where they say something."""
    points = [(row["epoch"], row[name]) for row in rows if name in row and told(name.removeprefix("val."), row[name])]
    return Series(title, points)


def run_curves(facts: RunFacts) -> list[str]:
    """The charts of one run, as SVG; those without a point are left out."""
    rows = facts.rows
    steps = [row for row in rows if "loss" in row]
    losses = [name for name in _columns(rows) if name.startswith("loss_")]
    stages = sorted({name.rpartition(".")[2] for name in _columns(rows) if name.startswith("val.select_ratio.")})
    accuracy = {f"val.{name}": words for name, words in accuracy_words([facts]).items()}
    chosen = [
        series_of(rows, f"val.{figure}.{stage}", f"{word}, {stage.replace('stage', 'stage ')}")
        for stage in stages
        for figure, word in (("select_ratio", "selected"), ("label_ratio", "labelled"))
    ]
    found = [
        series_of(rows, f"val.{figure}.{stage}", f"{figure}, {stage.replace('stage', 'stage ')}")
        for stage in stages
        for figure in ("recall", "precision")
    ]
    in_training = [
        series_of(rows, f"{figure}.{stage}", f"{word}, {stage.replace('stage', 'stage ')}")
        for stage in stages
        for figure, word in (("select_ratio", "selected"), ("own_ratio", "own gate alone"))
    ]
    charts = [
        line_chart("Loss", [series_of(rows, "loss", "total")], EPOCH, Axis("", from_zero=True)),
        line_chart(
            "Parts of the loss", [series_of(rows, name, name[5:]) for name in losses], EPOCH, Axis("", from_zero=True)
        ),
        line_chart("Accuracy on validation", [series_of(rows, *one) for one in accuracy.items()], EPOCH, SHARE),
        line_chart("Tokens on validation", chosen, EPOCH, SHARE),
        line_chart("Object tokens found on validation", found, EPOCH, SHARE),
        line_chart("Tokens selected in training, with noise", in_training, EPOCH, SHARE),
        line_chart("Learning rate", [series_of(rows, "lr", "lr")], EPOCH, Axis("", from_zero=True)),
        line_chart("Images a second", [series_of(steps, "img_per_s", "training")], EPOCH, Axis("", from_zero=True)),
    ]
    return [chart for chart in charts if chart]


def shared_curves(runs: Sequence[RunFacts]) -> list[str]:
    """One figure of every run in one chart."""
    wanted = {
        **{f"val.{name}": f"{words} on validation" for name, words in accuracy_words(runs).items()},
        "val.select_ratio.stage3": "Tokens selected on validation, stage 3",
        "val.select_ratio.stage4": "Tokens selected on validation, stage 4",
    }
    charts = [
        line_chart(title, [series_of(facts.validations(), name, facts.name) for facts in runs], EPOCH, SHARE)
        for name, title in wanted.items()
    ]
    charts.append(line_chart("Loss", [series_of(facts.rows, "loss", facts.name) for facts in runs], EPOCH, Axis("")))
    return [chart for chart in charts if chart]


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
