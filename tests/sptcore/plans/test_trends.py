"""Trends: told where the numbers tell, and not where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from sptcore.plans.outcome import Outcome
from sptcore.plans.schema import TrendPlan
from sptcore.plans.trends import CANNOT_BE_TOLD, NOT_SEEN, SEEN, judge


def outcome(seed: int, *, ap: float = 0.2, selected: float = 0.3, labelled: float = 0.3, **changes: Any) -> Outcome:
    block = {"block": "stage3.block0", "select_ratio": selected, "label_ratio": labelled, "recall": 0.9}
    values: dict[str, Any] = {
        "row": "a", "seed": seed, "model": "spt-nano", "data": "d", "steps": 2, "images": 3, "seconds": 1.0,
        "device": "cpu", "figures": {"label.mAP": ap}, "params": 1000, "size": (64, 64), "macs": {"macs": 10},
        "blocks": [block],
    }  # fmt: skip
    return Outcome(**(values | changes))


ABOVE = TrendPlan(kind="above", text="x", column="label.mAP", more="a", less="b")
FOLLOWS = TrendPlan(kind="follows_labels", text="x", rows=("a",))


@pytest.mark.parametrize(
    ("more", "less", "verdict"),
    [
        ([0.30, 0.31, 0.30], [0.20, 0.21, 0.20], SEEN),
        ([0.20, 0.21, 0.20], [0.30, 0.31, 0.30], NOT_SEEN),
        ([0.10, 0.40, 0.25], [0.20, 0.30, 0.22], CANNOT_BE_TOLD),
        ([0.30], [0.20], CANNOT_BE_TOLD),
        ([0.30, 0.31], [0.20], CANNOT_BE_TOLD),
        ([0.30, 0.31], [], CANNOT_BE_TOLD),
    ],
)
def test_one_row_above_another(more: list[float], less: list[float], verdict: str) -> None:
    outcomes = {
        "a": [outcome(seed, ap=value) for seed, value in enumerate(more)],
        "b": [outcome(seed, ap=value) for seed, value in enumerate(less)],
    }
    assert judge(ABOVE, outcomes).verdict == verdict


def test_the_reason_is_said() -> None:
    assert "one seed" in judge(ABOVE, {"a": [outcome(0)], "b": [outcome(0)]}).why
    wide, narrow = [outcome(0, ap=0.1), outcome(1, ap=0.9)], [outcome(0, ap=0.4), outcome(1, ap=0.5)]
    assert "spread" in judge(ABOVE, {"a": wide, "b": narrow}).why
    assert "no difference" in judge(ABOVE, {"a": wide, "b": wide}).why
    lost = [outcome(0, ap=0.1), outcome(1, ap=-1.0)]  # a second seed that came to no figure
    assert "one seed" in judge(ABOVE, {"a": wide, "b": lost}).why
    assert "no result of b" in judge(ABOVE, {"a": wide}).why


@pytest.mark.parametrize(("less", "verdict"), [([0.10, 0.20, 0.27], SEEN), ([0.112, 0.212, 0.282], CANNOT_BE_TOLD)])
def test_two_standard_errors_of_the_difference_by_hand(less: list[float], verdict: str) -> None:
    """More: mean 30, s = 1, error .577. Less: mean 19 or 20.2, s = 8.544, error 4.933. Both: 4.967, twice it 9.93."""
    outcomes = {
        key: [outcome(seed, ap=value) for seed, value in enumerate(values)]
        for key, values in (("a", [0.290, 0.300, 0.310]), ("b", less))
    }
    assert judge(ABOVE, outcomes).verdict == verdict


def test_rows_of_another_ratio_are_not_compared() -> None:
    trend = ABOVE.model_copy(update={"equal": "select_ratio"})
    a = [outcome(seed, ap=0.3 + seed / 1000, selected=0.30) for seed in range(3)]
    near = [outcome(seed, ap=0.2 + seed / 1000, selected=0.33) for seed in range(3)]
    far = [outcome(seed, ap=0.2 + seed / 1000, selected=0.50) for seed in range(3)]
    nothing = [outcome(seed, ap=0.2 + seed / 1000, blocks=[]) for seed in range(3)]
    assert judge(trend, {"a": a, "b": near}).verdict == SEEN
    assert judge(trend, {"a": a, "b": far}).verdict == CANNOT_BE_TOLD
    assert judge(trend, {"a": a, "b": nothing}).verdict == CANNOT_BE_TOLD


@pytest.mark.parametrize(
    ("selected", "verdict"),
    [
        ([0.30, 0.31], SEEN),
        ([0.90, 0.91], NOT_SEEN),
        ([0.05, 0.06], NOT_SEEN),
        ([0.30], CANNOT_BE_TOLD),
        ([0.25, 0.64], CANNOT_BE_TOLD),
    ],
)
def test_the_ratio_follows_the_labels(selected: list[float], verdict: str) -> None:
    runs = [outcome(seed, selected=value) for seed, value in enumerate(selected)]
    assert judge(FOLLOWS, {"a": runs}).verdict == verdict
