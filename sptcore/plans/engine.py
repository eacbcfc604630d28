"""The walk through a plan: sets, then every row and seed that is not finished, the table after each, pictures last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sptcore.errors import UsageError, did_you_mean
from sptcore.plans.folder import Folder, default_home, opened
from sptcore.plans.outcome import Outcome, device_name, outcome_of
from sptcore.plans.pictures import draw_pictures
from sptcore.plans.schema import Plan, RowPlan
from sptcore.plans.sets import ReadySet, find_sets, ready_set, refuse_missing
from sptcore.plans.table import Table, tabulate
from sptcore.plans.writing import write_tables
from sptcore.progress import SILENT, Progress
from sptcore.training.config import TrainConfig
from sptcore.training.loop import make_trainer


@dataclass(frozen=True)
class Request:
    """What is to be reproduced. `text`: the plan's file, kept in the folder. `seeds`: None as the scale says.

    `data_root`: where the data sets lie; at scale smoke None means the built-in sample. `rows`: these only, all when
    empty. `workers`: loading processes of training, None for its own choice.
    """

    plan: Plan
    scale: str = "smoke"
    text: str = ""
    data_root: Path | None = None
    seeds: int | None = None
    home: Path | None = None
    device: str = "auto"
    rows: tuple[str, ...] = ()
    workers: int | None = None

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.home or default_home(self.plan.name, self.scale)

    @property
    def chosen_rows(self) -> list[RowPlan]:
        """The rows to work on. Raises UsageError for one the scale does not have."""
        there = self.plan.rows_at(self.scale)
        keys = [row.key for row in there]
        for key in self.rows:
            if key not in keys:
                hint = did_you_mean(key, keys) or f"rows: {', '.join(keys)}"
                raise UsageError(f"no row '{key}' in {self.plan.name} at scale {self.scale}", hint=hint)
        return [row for row in there if not self.rows or row.key in self.rows]

    @property
    def chosen_seeds(self) -> range:
        """The seeds to train with."""
        return range(self.plan.scale(self.scale).seeds if self.seeds is None else self.seeds)

    def config(self, row: RowPlan, seed: int, ready: ReadySet) -> TrainConfig:
        """The training of a row with a seed on its set."""
        place = {**ready.place, "seed": seed, "device": self.device}
        if self.workers is not None:
            place["workers"] = self.workers
        return self.plan.config(row, self.scale, **place)


@dataclass(frozen=True)
class Reproduction:
    """What a walk came to. `stopped`: the cause that cut it short, None when every chosen row is finished."""

    folder: Path
    table: Table
    trained: int
    found: int
    files: dict[str, Path]
    stopped: str | None = None


def reproduce(request: Request, *, progress: Progress = SILENT) -> Reproduction:
    """Do what is left of a plan in its folder; a signal saves the training under work and returns with its cause.

    Raises UsageError when the folder was started with other settings, DataError for data that are missing,
    IntegrityError for data that are not the same as before, and what training raises.
    """
    rows = request.chosen_rows
    wanted = {name: request.plan.data[name] for name in dict.fromkeys(row.data for row in rows)}
    found, missing = find_sets(wanted, data_root=request.data_root, scale=request.scale, progress=progress)
    refuse_missing(missing, wanted)
    with opened(request.folder, progress) as folder:
        folder.freeze(request.plan, request.scale, request.text)
        limit = request.plan.scale(request.scale).limit
        sets = {name: ready_set(one, folder.data, limit=limit, progress=progress) for name, one in found.items()}
        folder.know(sets)
        return _walk(request, folder, sets, progress)


def _walk(request: Request, folder: Folder, sets: Mapping[str, ReadySet], progress: Progress) -> Reproduction:
    trained = there = 0
    stopped = None
    for row, seed in _turns(request.chosen_rows, request.chosen_seeds):
        if folder.outcome(row.key, seed) is not None:
            there += 1
            continue
        progress.note(f"{request.plan.name} {request.scale}: {row.label} on {row.data}, seed {seed}")
        stopped = _train(request, folder, row, seed, sets[row.data], progress)
        if stopped is not None:
            break
        trained += 1
        write_tables(folder.home, _table(request, folder))
    table = _table(request, folder)
    files = write_tables(folder.home, table)
    if stopped is None:
        files |= draw_pictures(request.plan, request.scale, folder, sets, device=request.device, progress=progress)
    return Reproduction(folder.home, table, trained, there, files, stopped)


def _turns(rows: Sequence[RowPlan], seeds: Sequence[int]) -> Iterator[tuple[RowPlan, int]]:
    """Every row with the first seed, then every row with the next."""
    return ((row, seed) for seed in seeds for row in rows)


def _train(
    request: Request, folder: Folder, row: RowPlan, seed: int, ready: ReadySet, progress: Progress
) -> str | None:
    """Train a row with a seed to its end, or on from where it was left; the cause when it was stopped."""
    config = request.config(row, seed, ready)
    trainer = make_trainer(config, progress=progress)  # before a folder is made: a refused row leaves none
    run, resume = folder.start_run(row.key, seed, config)
    report = trainer.fit(run, resume=resume)
    if report.stopped is not None:
        return report.stopped
    params = sum(parameter.numel() for parameter in trainer.state.model.parameters())
    spec, device = trainer.prepared.spec, device_name(trainer.device)
    outcome = outcome_of(
        report, spec, params, row=row.key, seed=seed, data=row.data, device=device, ratio=row.paper_ratio
    )
    outcome.write(run.home / "result.json")
    return None


def _table(request: Request, folder: Folder) -> Table:
    outcomes: dict[str, list[Outcome]] = {
        row.key: folder.outcomes(row.key) for row in request.plan.rows_at(request.scale)
    }
    frozen = folder.frozen
    return tabulate(request.plan, request.scale, outcomes, sets={} if frozen is None else frozen["prints"])
