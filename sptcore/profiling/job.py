"""The job `profile`: what models cost at a resolution and select ratio, by formula, by count and by clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from sptcore.models.selectors import bound_note
from sptcore.profiling.counted import Counted
from sptcore.profiling.macs import GROUPINGS, group_costs, total
from sptcore.profiling.passes import Pass
from sptcore.profiling.subjects import Built, Case, Setting, Subject, heads_name, inputs_of
from sptcore.profiling.timing import Protocol, Timing, environment, measure, peak_memory
from sptcore.progress import SILENT, Progress

SCOPES = ("backbone", "detector")
BREAKDOWNS = (*GROUPINGS, "op")
CUDA_PROTOCOL = Protocol(warmup=10, rounds=50)
CPU_PROTOCOL = Protocol(warmup=1, rounds=50, budget=60.0)  # what a minute allows for all rows together


@dataclass(frozen=True)
class ProfileRequest:
    """What to profile. MACs and parameters are given for every scope; the clock runs on the first one.

    Raises ValueError for two subjects of one name, whose rows nobody could tell apart, and for an unknown breakdown.

    `setting.scope` is not used. `protocol` None: that of `protocol_for` the device. `train`: time a forward and
    backward pass too. `by`: one of BREAKDOWNS.
    """

    subjects: tuple[Subject, ...]
    setting: Setting
    scopes: tuple[str, ...] = SCOPES
    latency: bool = True
    train: bool = False
    protocol: Protocol | None = None
    by: str = "component"

    def __post_init__(self) -> None:
        names = [one.name for one in self.subjects]
        if len(set(names)) < len(names):
            raise ValueError(f"subjects need names of their own, these are {', '.join(names)}")
        if self.by not in BREAKDOWNS:
            raise ValueError(f"no breakdown {self.by!r}, only {', '.join(BREAKDOWNS)}")


@dataclass(frozen=True)
class ProfileRow:
    """One model at one selection. MACs and times are of one pass over the whole batch.

    `macs_training`: actual and Eq. 9 of a forward pass in training, None where it runs the same; heads have as many
    regions as in evaluation. `heads`: their name, empty in scope backbone. `note`: what has to be known of the model
    beside its figures.
    """

    scope: str
    model: str
    selection: str
    block_ratios: tuple[float, ...]
    params: int
    macs_actual: int
    macs_eq9: int
    macs_counted: int
    macs_training: tuple[int, int] | None = None
    breakdown: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    latency: Timing | None = None
    peak_bytes: int | None = None
    train: Timing | None = None
    train_peak_bytes: int | None = None
    heads: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """`"spt-t 0.3"`."""
        return f"{self.model} {self.selection}"

    @property
    def select_ratio(self) -> float | None:
        """Mean over the selecting blocks; None for a dense model."""
        return sum(self.block_ratios) / len(self.block_ratios) if self.block_ratios else None


@dataclass(frozen=True)
class ProfileReport:
    """The rows, scope after scope, and what their figures depend on.

    `input_sets`: how many inputs timed passes took in turn.
    """

    setting: Setting
    rows: tuple[ProfileRow, ...]
    environment: dict[str, object]
    input_sets: int = 1

    def of_scope(self, scope: str) -> list[ProfileRow]:
        """The rows of one scope, in order."""
        return [row for row in self.rows if row.scope == scope]

    @property
    def heads(self) -> list[str]:
        """The names of the heads that detectors have; more than one, and their rows do not compare."""
        return list(dict.fromkeys(row.heads for row in self.rows if row.heads))

    @property
    def miscounted(self) -> list[str]:
        """Names of the rows whose counted MACs are not those of the formula: a fault in one of the two."""
        return [row.name for row in self.rows if row.macs_counted != row.macs_actual]


def protocol_for(device: torch.device, warmup: int | None = None, rounds: int | None = None) -> Protocol:
    """How often rows are timed on `device`, where nobody says, and with what somebody says in its place.

    50 rounds after 10 on CUDA; on a CPU as many as a minute allows for all rows together, at least 3, after 1; without
    a round of warm-up, which tells the pace, 7.
    """
    usual = CUDA_PROTOCOL if device.type == "cuda" else CPU_PROTOCOL
    chosen = replace(usual, warmup=usual.warmup if warmup is None else warmup)
    if rounds is not None:
        return replace(chosen, rounds=rounds, budget=None)
    return Protocol(warmup=0, rounds=7) if chosen.budget is not None and chosen.warmup == 0 else chosen


def profile(request: ProfileRequest, progress: Progress = SILENT) -> ProfileReport:
    """Count and time every selection of every subject.

    Rivals take turns in one process (see `timing`). Biases that are zero get small random values; masks are random
    blobs of exactly the stated size, another one in every block. On CUDA at least four input images take turns.
    """
    rows: list[ProfileRow] = []
    known: dict[object, Counted] = {}
    sets = 1
    for scope in request.scopes:
        setting = replace(request.setting, scope=scope)
        builts = [Built(one, setting) for one in request.subjects]
        inputs = inputs_of(setting)
        cases = [Case(one, selection, setting, inputs) for one in builts for selection in one.subject.selections]
        counted = _counted(cases, request.by, known, progress)
        if scope == request.scopes[0]:
            counted, sets = _timed(request, cases, counted, progress), len(inputs)
        rows += counted
    return ProfileReport(request.setting, tuple(rows), environment(request.setting.device), sets)


def _counted(cases: list[Case], by: str, known: dict[object, Counted], progress: Progress) -> list[ProfileRow]:
    rows = []
    progress.start(f"counting {cases[0].setting.scope}", len(cases))
    for case in cases:
        costs, operations = case.costs(), case.count(known)
        actual, eq9 = total(costs)
        training = total(case.costs(training=True))
        breakdown: dict[str, tuple[int, int | None]] = (
            {name: (macs, None) for name, macs in operations.items()} if by == "op" else {**group_costs(costs, by)}
        )
        rows.append(
            ProfileRow(
                scope=case.setting.scope,
                model=case.built.subject.name,
                selection=case.selection.name,
                block_ratios=case.selection.ratios,
                params=case.built.params,
                macs_actual=actual,
                macs_eq9=eq9,
                macs_counted=sum(operations.values()),
                macs_training=None if training == (actual, eq9) else training,
                breakdown=breakdown,
                heads=heads_name(case.built.subject.shape.heads) if case.setting.scope == "detector" else "",
                note=bound_note(case.built.subject.config.selector),
            )
        )
        progress.advance(1, at=case.name)
    progress.finish()
    return rows


def _timed(request: ProfileRequest, cases: list[Case], rows: list[ProfileRow], progress: Progress) -> list[ProfileRow]:
    """The rows with times and peak memory, as far as they are wanted."""
    if request.latency:
        passes = {case.name: case.inference() for case in cases}
        if request.setting.compiled:
            _compile(passes, progress)
        times, peaks = _clock(request, passes, "timing", progress)
        rows = [replace(row, latency=times[row.name], peak_bytes=peaks[row.name]) for row in rows]
    if request.train:
        times, peaks = _clock(request, {case.name: case.training() for case in cases}, "timing training", progress)
        rows = [replace(row, train=times[row.name], train_peak_bytes=peaks[row.name]) for row in rows]
    return rows


def _compile(passes: dict[str, Pass], progress: Progress) -> None:
    """The first call of each, before the warm-up, whose pace tells how many rounds there is time for."""
    progress.start("compiling", len(passes))
    for name, call in passes.items():
        call()
        progress.advance(1, at=name)
    progress.finish()


def _clock(
    request: ProfileRequest, passes: dict[str, Pass], title: str, progress: Progress
) -> tuple[dict[str, Timing], dict[str, int]]:
    device = request.setting.device
    protocol = request.protocol or protocol_for(device)
    calls: dict[str, Callable[[], object]] = dict(passes)
    times = measure(calls, protocol, device=device, title=title, progress=progress)
    progress.start("measuring memory", len(passes))
    peaks = {}
    for name, call in passes.items():
        peaks[name] = peak_memory(call, device)
        progress.advance(1, at=name)
    progress.finish()
    return times, peaks
