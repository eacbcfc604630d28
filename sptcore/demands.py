"""What an evaluation must reach: `--fail-under AP=.20,top1=.3`."""

from __future__ import annotations

from collections.abc import Mapping

from sptcore.errors import IntegrityError, UsageError, did_you_mean
from sptcore.evaluation import EvaluationReport
from sptcore.tasks import TASKS
from sptcore.tasks.coco_metrics import METRICS


def parse_demands(text: str) -> dict[str, float]:
    """`"AP=.20,segm.AP50=.4"` as figure -> least value. Raises UsageError."""
    known = {name.rpartition(".")[2] for task in TASKS.values() for name in task.figures} | {*METRICS}
    demands = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        try:
            demands[name] = float(value)
        except ValueError:
            raise UsageError(f"{part!r} is not FIGURE=VALUE, such as AP=.20") from None
        if not equals or ("." not in name and name not in known):
            raise UsageError(f"no figure {part!r}", hint=did_you_mean(name, known) or ", ".join(sorted(known)))
    return demands


def check_demands(report: EvaluationReport, demands: Mapping[str, float]) -> None:
    """Raise IntegrityError when a figure lies below what is demanded, UsageError when there is no such figure.

    A plain name is one of the first kind that has it: AP is that of the boxes.
    """
    figures = report.figures()
    for demanded, least in demands.items():
        name = next((figure for figure in figures if demanded in (figure, figure.partition(".")[2])), demanded)
        if name not in figures:
            raise UsageError(f"this evaluation has no figure '{name}'", hint=did_you_mean(name, figures))
        if not figures[name] >= least:
            raise IntegrityError(f"{name} is {figures[name]:.4f}, less than {least:g}", where=report.subject)
