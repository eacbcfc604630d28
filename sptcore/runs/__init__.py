"""Run folders: what a job leaves behind, and how the next command finds it.

    <runs>/<command>/<UTC time>-<model>-<data>/
        config.toml command.txt env.json metrics.jsonl metrics.csv log.txt
        checkpoints/step-*.pt, last.pt, best.pt (+ .sha256)   weights/{best,ema,last}.safetensors   predictions.json
    <runs>/<command>/latest -> the newest of them that began its work

<runs> is `$SPT_RUNS` or `./runs`. A folder with something in it is never used again without a word.
Nothing here imports torch before tensors are read or written.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from sptcore.errors import DataError, EnvironmentFault, IntegrityError
from sptcore.files import TEMP_MARK, as_fault, write_atomically
from sptcore.runs.checkpoints import go_on_from, latest_checkpoint, load_checkpoint, save_checkpoint
from sptcore.runs.metrics import MetricsLog, read_metrics
from sptcore.runs.weights import WeightsInfo, load_weights, save_weights, weights_info

__all__ = [
    "MetricsLog",
    "Run",
    "WeightsInfo",
    "forget_unbegun",
    "go_on_from",
    "latest_checkpoint",
    "load_checkpoint",
    "load_weights",
    "new_run",
    "open_run",
    "read_metrics",
    "runs_root",
    "save_checkpoint",
    "save_weights",
    "weights_info",
]

_LATEST = "latest"


@dataclass(frozen=True)
class Run:
    """A run folder, or a weights file standing alone (then `folder` is None)."""

    folder: Path | None
    weights_file: Path | None = None

    @property
    def home(self) -> Path:
        """The folder; raises DataError for a weights file that stands alone."""
        if self.folder is None:
            raise DataError("a weights file, not a run folder", where=str(self.weights_file))
        return self.folder

    @property
    def name(self) -> str:
        """What a table calls this run."""
        return self.folder.name if self.folder else (self.weights_file or Path("weights")).stem

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.home / "checkpoints"

    @property
    def weights(self) -> Path:
        """The weights to use: the file itself, else best, ema, last. Raises DataError without any."""
        if self.weights_file is not None:
            return self.weights_file
        for name in ("best", "ema", "last"):
            path = self.home / "weights" / f"{name}.safetensors"
            if path.is_file():
                return path
        hint = f"the run saved none yet; go on with: spt train --resume {shlex.quote(str(self.home))}"
        raise DataError("no weights in this run", where=str(self.home / "weights"), hint=hint)

    @cached_property
    def info(self) -> WeightsInfo:
        """The header of the weights: model, task, categories, resolution."""
        return weights_info(self.weights)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings in `config.toml`. Raises IntegrityError when it is not TOML."""
        path = self.home / "config.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError("not a run folder: no config.toml in it", where=str(self.home)) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise IntegrityError(f"not TOML: {error}", where=str(path)) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, oldest first."""
        return read_metrics(self.home / "metrics.jsonl")

    def write_json(self, name: str, content: Any) -> Path:
        """Publish `content` as `<folder>/<name>`, whole or not at all."""
        path = self.home / name
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path

    def make_latest(self, command: str) -> None:
        """Let `<runs>/<command>/latest` lead here: the work has begun. A file system without links goes without it."""
        _point_latest(runs_root() / command, self.home)

    def log(self, line: str) -> None:
        """Add a line with its time to `log.txt`."""
        with (self.home / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n")


def runs_root() -> Path:
    """The folder of all runs: `$SPT_RUNS`, else `./runs`."""
    return Path(os.environ.get("SPT_RUNS") or "runs")


def new_run(command: str, label: str, *, folder: Path | None = None, argv: Sequence[str] = ()) -> Run:
    """A fresh run folder with `command.txt` and `env.json`; `Run.make_latest` makes it the one that `last` names.

    `label` names it (`spt-t-coco`); `folder` replaces the place under `runs_root()`. Raises EnvironmentFault when
    `folder` holds something already, or when it cannot be made.
    """
    home = _fresh(folder) if folder else _timed(runs_root() / command, label)
    try:
        (home / "checkpoints").mkdir()
        (home / "weights").mkdir()
    except OSError as error:
        raise as_fault(error, home) from error
    run = Run(home)
    write_atomically(home / "command.txt", shlex.join(argv) + "\n")
    run.write_json("env.json", environment())
    return run


def _fresh(folder: Path) -> Path:
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise as_fault(error, folder) from error
    if used:
        hint = "choose another --run-dir, or go on with that run: --resume " + shlex.quote(str(folder))
        raise EnvironmentFault("the run folder is not empty", where=str(folder), hint=hint)
    return folder


def forget_unbegun(folder: Path) -> None:
    """Empty a run folder whose run was killed before it had settings; anything else than `new_run` leaves stays."""
    made = {"command.txt", "env.json", "checkpoints", "weights"}
    inside = [*Path(folder).iterdir()] if Path(folder).is_dir() else []
    if any(path.name not in made and not path.name.startswith(TEMP_MARK) for path in inside):
        return
    if any(path.is_dir() and any(path.iterdir()) for path in inside):
        return
    for path in inside:
        with suppress(FileNotFoundError):  # several processes of one job may clear the same folder
            path.rmdir() if path.is_dir() else path.unlink()


def _timed(parent: Path, label: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[:80] or "run"
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{safe}"
    for attempt in range(1, 1000):
        home = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            home.mkdir(parents=True)
            return home
        except FileExistsError:
            continue
        except OSError as error:
            raise as_fault(error, home) from error
    raise EnvironmentFault("a thousand runs in one second", where=str(parent))


def _point_latest(parent: Path, home: Path) -> None:
    temp = parent / f".{_LATEST}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temp.symlink_to(os.path.relpath(home.resolve(), parent.resolve()))
        os.replace(temp, parent / _LATEST)
    except OSError:
        temp.unlink(missing_ok=True)


def open_run(spec: str | Path = "last", *, command: str = "train") -> Run:
    """The run that `spec` names: `last`, a run folder, a run's name under `runs_root()`, or a weights file.

    Raises DataError when there is nothing of that name, saying where it was looked for.
    """
    if str(spec) in ("last", "auto"):
        latest = runs_root() / command / _LATEST
        if not latest.is_dir():
            raise DataError("there is no run yet", where=str(latest), hint=f"start one: spt {command}")
        return Run(latest.resolve())
    for path in (Path(spec), runs_root() / command / str(spec)):
        if path.is_file():
            return Run(None, path)
        if (path / "config.toml").is_file():
            return Run(path)
    looked = f"{Path(spec)}, {runs_root() / command / str(spec)}"
    raise DataError(
        f"no run or weights file '{spec}'", where=looked, hint="name a run folder, a .safetensors file, or last"
    )


def environment() -> dict[str, Any]:
    """Versions, machine and commit, for `env.json`."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import sptcore

    packages = {}
    for name in ("torch", "torchvision", "numpy", "opencv-python", "pycocotools", "faster-coco-eval", "safetensors"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "tool_version": sptcore.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": packages,
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
