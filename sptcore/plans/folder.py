"""The folder of a reproduction: what was asked for, frozen; the cut data; a run folder a row and seed; the tables.

    <folder>/plan.toml plan.json      the plan's text; scale, sets with fingerprints, settings of every row
    <folder>/data/<set>/              sets that were cut
    <folder>/rows/<row>/seed-<n>/     run folders of training; result.json when complete
    <folder>/table.{md,csv,json}      written anew after each row
    <folder>/pictures/                heat maps

Nothing in it depends on where it lies: moved to another machine, the same command goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sptcore import __version__
from sptcore.data.lock import build_lock
from sptcore.errors import EnvironmentFault, IntegrityError, UsageError
from sptcore.files import as_fault, write_atomically
from sptcore.plans.outcome import Outcome
from sptcore.plans.schema import Plan
from sptcore.plans.sets import ReadySet
from sptcore.progress import Progress
from sptcore.runs import Run, new_run, runs_root
from sptcore.training.config import TrainConfig, make_config, read_config

SCHEMA = "spt.reproduce/1"
PLACE = ("data", "root", "format", "split", "val_split", "ann", "val_ann", "val_data")  # where data are on this machine


@dataclass(frozen=True)
class Folder:
    """The folder of one plan at one scale."""

    home: Path

    @property
    def data(self) -> Path:
        """Where cut sets lie."""
        return self.home / "data"

    def run_home(self, row: str, seed: int) -> Path:
        """The run folder of a row and seed."""
        return self.home / "rows" / row / f"seed-{seed}"

    def outcome(self, row: str, seed: int) -> Outcome | None:
        """What a finished run came to, None when it is not finished. Raises IntegrityError for a damaged file."""
        path = self.run_home(row, seed) / "result.json"
        return Outcome.read(path) if path.is_file() else None

    def outcomes(self, row: str) -> list[Outcome]:
        """All finished runs of a row, by seed."""
        seeds = sorted(int(path.name.removeprefix("seed-")) for path in (self.home / "rows" / row).glob("seed-*"))
        found = [self.outcome(row, seed) for seed in seeds]
        return [one for one in found if one is not None]

    @property
    def frozen(self) -> dict[str, Any] | None:
        """The content of plan.json, None in a fresh folder. Raises IntegrityError when it is damaged or newer."""
        path = self.home / "plan.json"
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
            schema = content["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("not the record of a reproduction", where=str(path)) from error
        if schema != SCHEMA:
            raise IntegrityError(f"a record of schema {schema!r}, this version reads {SCHEMA!r}", where=str(path))
        return content

    def freeze(self, plan: Plan, scale: str, text: str) -> None:
        """Write down what this folder is for, or check that it is for the same.

        Raises UsageError that lists what differs from what the folder was started with.
        """
        rows = {row.key: _frozen_row(plan, scale, row.key) for row in plan.rows_at(scale)}
        sets = {name: one.model_dump(mode="json") for name, one in plan.data.items()}
        now = {"schema": SCHEMA, "tool": f"spt {__version__}", "plan": plan.name, "scale": scale, "rows": rows}
        now |= {"sets": sets, "limit": plan.scale(scale).limit, "prints": {}}
        before = self.frozen
        if before is not None:
            changed = list(_changes(before, json.loads(json.dumps(now))))
            if changed:
                hint = "repeat the settings it was started with, or choose another --run-dir"
                raise UsageError(f"this folder was started with other settings: {'; '.join(changed[:4])}",
                                 where=str(self.home), hint=hint)  # fmt: skip
            return
        write_atomically(self.home / "plan.toml", text)
        self._write(now)

    def know(self, sets: Mapping[str, ReadySet]) -> None:
        """Write down the fingerprints of the sets, or check them: the data must be the same on every machine.

        Raises IntegrityError for annotations that are not those the folder was started with, UsageError for the sample
        in place of data or the other way round.
        """
        frozen = self.frozen
        assert frozen is not None
        for name, one in sets.items():
            print_ = {"origin": one.origin, "split": one.split, "images": one.images, "sha256": one.prints}
            print_ |= {"kind": one.kind}
            before = frozen["prints"].setdefault(name, print_)
            if before["origin"] != one.origin:
                message = f"{name} was the {before['origin']} when this folder was started, now it is the {one.origin}"
                hint = "give the same --data-root, or choose another --run-dir"
                raise UsageError(message, where=str(self.home), hint=hint)
            if before != print_:
                message = f"the annotations of {name} are not those that this folder was started with"
                raise IntegrityError(message, where=one.data, hint="use the same data, or choose another --run-dir")
        self._write(frozen)

    def _write(self, content: dict[str, Any]) -> None:
        write_atomically(self.home / "plan.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def start_run(self, row: str, seed: int, config: TrainConfig) -> tuple[Run, bool]:
        """The run folder of a row and seed, and whether training goes on there."""
        home = self.run_home(row, seed)
        if (home / "config.toml").is_file():
            run = Run(home)
            _repoint(run, config)
            return run, True
        if home.exists():  # killed before it wrote its settings
            shutil.rmtree(home)
        argv = ["spt", "train", "--config", "config.toml"]
        return new_run("reproduce", f"{row}-seed-{seed}", folder=home, argv=argv), False


def _frozen_row(plan: Plan, scale: str, key: str) -> dict[str, Any]:
    row = next(row for row in plan.rows if row.key == key)
    settings = plan.config(row, scale).model_dump(mode="json", exclude_defaults=True)
    return {"data": row.data, "settings": settings}


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs between two records, in words; settings are compared as training compares them."""
    for name in ("plan", "scale", "limit"):
        if before[name] != now[name]:
            yield f"{name} was {before[name]}, now {now[name]}"
    for name in sorted({*before["sets"], *now["sets"]}):
        if _cut(before["sets"].get(name)) != _cut(now["sets"].get(name)):
            yield f"the cut of {name} was {_cut(before['sets'].get(name))}, now {_cut(now['sets'].get(name))}"
    for key in sorted({*before["rows"], *now["rows"]}):
        one, other = before["rows"].get(key), now["rows"].get(key)
        if one is None or other is None:
            yield f"row {key} is {'new' if one is None else 'gone'}"
            continue
        if one["data"] != other["data"]:
            yield f"row {key} was on {one['data']}, now on {other['data']}"
        changed = make_config(one["settings"]).changed_settings(make_config(other["settings"]))
        yield from (f"row {key}: {name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())


def _cut(plan: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    return None if plan is None else tuple(plan[name] for name in ("source", "task", "max_ratio", "pad"))


def _repoint(run: Run, config: TrainConfig) -> None:
    """Let a run's settings name the data where they are now; their content was checked by its fingerprint."""
    own = read_config(run.home / "config.toml")
    moved = {name: getattr(config, name) for name in PLACE if getattr(own, name) != getattr(config, name)}
    if moved:
        write_atomically(run.home / "config.toml", own.model_copy(update=moved).to_toml())
        run.log("the data lie elsewhere now: " + ", ".join(f"{name} {value}" for name, value in moved.items()))


def default_home(plan: str, scale: str) -> Path:
    """`runs/reproduce/<plan>-<scale>`."""
    return runs_root() / "reproduce" / f"{plan}-{scale}"


@contextmanager
def opened(home: Path, progress: Progress) -> Iterator[Folder]:
    """The folder, made where it is missing, held by one process at a time. Raises EnvironmentFault."""
    home = Path(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        strange = any(home.iterdir()) and not (home / "plan.json").is_file() and not (home / "plan.toml").is_file()
    except OSError as error:
        raise as_fault(error, home) from error
    if strange:
        hint = "choose an empty folder, or one that spt reproduce wrote"
        raise EnvironmentFault("the folder holds something else", where=str(home), hint=hint)
    with build_lock(home, progress=progress):
        yield Folder(home)
