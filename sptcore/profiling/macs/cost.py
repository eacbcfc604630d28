"""The cost of one component, of one stage, and sums of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """MACs of one component at one place: `part` of the model, `stage` and `block` from 1 (0: outside of any)."""

    part: str
    component: str
    actual: int
    eq9: int
    stage: int = 0
    block: int = 0


@dataclass(frozen=True)
class StageCost:
    """MACs of one backbone stage, with the patch embedding or merging before it and the entry gate behind it.

    `select_ratio`: mean over its selecting blocks of selected / all tokens; None where no block selects.
    """

    stage: int
    costs: tuple[Cost, ...]
    select_ratio: float | None

    @property
    def macs(self) -> int:
        """What runs."""
        return sum(cost.actual for cost in self.costs)

    @property
    def macs_eq9(self) -> int:
        """The paper's count."""
        return sum(cost.eq9 for cost in self.costs)


def same_cost(part: str, component: str, macs: int, stage: int = 0, block: int = 0) -> Cost:
    """A component that both conventions count alike."""
    return Cost(part, component, macs, macs, stage, block)


GROUPINGS: dict[str, Callable[[Cost], str]] = {
    "part": lambda cost: cost.part,
    "stage": lambda cost: f"stage {cost.stage}" if cost.stage else cost.part,
    "block": lambda cost: _block_name(cost),
    "component": lambda cost: cost.component if cost.part == "backbone" else f"{cost.part}.{cost.component}",
}


def _block_name(cost: Cost) -> str:
    if not cost.stage:
        return cost.part
    return f"{cost.stage}.{cost.block}" if cost.block else f"{cost.stage}.{cost.component}"


def group_costs(costs: Iterable[Cost], by: str) -> dict[str, tuple[int, int]]:
    """(actual, eq9) MACs summed by one of GROUPINGS, in the order of first appearance."""
    name_of, sums = GROUPINGS[by], {}
    for cost in costs:
        actual, eq9 = sums.get(name_of(cost), (0, 0))
        sums[name_of(cost)] = (actual + cost.actual, eq9 + cost.eq9)
    return sums


def total(costs: Iterable[Cost | StageCost]) -> tuple[int, int]:
    """(actual, eq9) MACs of everything in `costs`."""
    actual = eq9 = 0
    for cost in costs:
        actual += cost.actual if isinstance(cost, Cost) else cost.macs
        eq9 += cost.eq9 if isinstance(cost, Cost) else cost.macs_eq9
    return actual, eq9
