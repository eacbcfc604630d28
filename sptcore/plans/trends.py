"""The paper's trends, looked for in a table's numbers: reported, never demanded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sptcore.plans.outcome import Outcome
from sptcore.plans.schema import TrendPlan

SEEN, NOT_SEEN, CANNOT_BE_TOLD = "seen", "not seen", "cannot be told"
NEAR = 1.5  # select ratio over label ratio up to which, and down to whose inverse, one follows the other
ALIKE = 5.0  # points in which two figures count as equal
ERRORS = 2.0  # standard errors of a difference beyond which it is told


@dataclass(frozen=True)
class Verdict:
    """A trend and whether it was seen; `why` has the numbers."""

    text: str
    verdict: str
    why: str


def judge(trend: TrendPlan, outcomes: Mapping[str, Sequence[Outcome]]) -> Verdict:
    """Look for a trend among the outcomes of each row; without spread (one seed) nothing can be told."""
    lacking = [key for key in trend.mentioned if not outcomes.get(key)]
    if lacking:
        return Verdict(trend.text, CANNOT_BE_TOLD, f"no result of {', '.join(lacking)}")
    if trend.kind == "follows_labels":
        return _follows(trend, outcomes)
    return _above(trend, outcomes)


def _values(outcomes: Sequence[Outcome], column: str) -> list[float]:
    found = (one.value(column) for one in outcomes)
    return [value for value in found if value is not None]


def _follows(trend: TrendPlan, outcomes: Mapping[str, Sequence[Outcome]]) -> Verdict:
    """Each row's selected over labelled tokens, against NEAR."""
    verdicts, words, groups = [], [], []
    for key in trend.rows:
        pairs = [(one.value("select_ratio"), one.value("label_ratio")) for one in outcomes[key]]
        quotients = [selected / labelled for selected, labelled in pairs if selected is not None and labelled]
        if not quotients:
            return Verdict(trend.text, CANNOT_BE_TOLD, f"{key} selects or labels nothing")
        groups.append(quotients)
        mean, error = statistics.fmean(quotients), _error(quotients)
        words.append(f"{key}: {mean:.2f} times the labelled tokens")
        inside = 1 / NEAR <= mean <= NEAR
        away = min(abs(mean - NEAR), abs(mean - 1 / NEAR))
        told = error is not None and away > ERRORS * error
        verdicts.append((SEEN if inside else NOT_SEEN) if told else CANNOT_BE_TOLD)
    worst = next((one for one in (NOT_SEEN, CANNOT_BE_TOLD) if one in verdicts), SEEN)
    return Verdict(trend.text, worst, "; ".join(words) + (_excuse(*groups) if worst == CANNOT_BE_TOLD else ""))


def _above(trend: TrendPlan, outcomes: Mapping[str, Sequence[Outcome]]) -> Verdict:
    """The difference of two rows in a column, against its standard error."""
    assert trend.column is not None
    assert trend.more is not None
    assert trend.less is not None
    pair = [outcomes[trend.more], outcomes[trend.less]]
    more, less = (_values(one, trend.column) for one in pair)
    if not more or not less:
        return Verdict(trend.text, CANNOT_BE_TOLD, f"no {trend.column} of {trend.more if not more else trend.less}")
    difference = statistics.fmean(more) - statistics.fmean(less)
    why = f"{trend.column} of {trend.more} minus that of {trend.less}: {difference:+.2f}"
    if trend.equal is not None:
        sides = [statistics.fmean(values) if (values := _values(one, trend.equal)) else math.nan for one in pair]
        if not abs(sides[0] - sides[1]) <= ALIKE:
            return Verdict(trend.text, CANNOT_BE_TOLD, f"{why}; {trend.equal} is not alike: {_two(sides)}")
    errors = [_error(more), _error(less)]
    if None in errors or abs(difference) <= ERRORS * math.hypot(*filter(None, errors)):
        return Verdict(trend.text, CANNOT_BE_TOLD, why + _excuse(more, less, differ=difference != 0))
    return Verdict(trend.text, SEEN if difference > 0 else NOT_SEEN, why)


def _two(sides: Sequence[float]) -> str:
    return " and ".join("nothing" if math.isnan(side) else f"{side:.1f}" for side in sides)


def _error(values: Sequence[float]) -> float | None:
    """The standard error of a mean, None for a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _excuse(*groups: Sequence[float], differ: bool = True) -> str:
    """Why figures, a group of seeds each, tell nothing."""
    if min(map(len, groups)) < 2:
        return " (one seed)"
    return " (the spread over seeds is too large)" if differ else " (no difference)"
