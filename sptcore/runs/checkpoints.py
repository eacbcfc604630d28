"""Checkpoints: the whole state of a training run, from which it goes on bit for bit.

A checkpoint is `step-<number>.pt` with its SHA-256 in `step-<number>.pt.sha256`. It is written beside its place,
flushed, and renamed; older ones are removed only then, so that one valid checkpoint exists at every moment. It is read
with `weights_only=True` and never before its digest was checked. `last.pt` is the newest of them, `best.pt` the state
at the best validation, which stays when its step is dropped; both are hard links, so that nothing is written twice.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sptcore.errors import IntegrityError
from sptcore.files import atomic_path, sha256_of, write_atomically

_DIGEST = ".sha256"


class _HashingStream:
    """Passes writes on and digests them; keeps the OSError that torch turns into something else."""

    def __init__(self, stream: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self._stream = stream

    def write(self, data: bytes) -> int:
        try:
            written = self._stream.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        self._stream.flush()


def save_checkpoint(folder: Path, state: dict[str, Any], *, step: int, keep: int, best: bool = False) -> Path:
    """Publish `state` (tensors, numbers, strings, lists, dicts), then drop all but the newest `keep`.

    `last.pt`, and `best.pt` with `best`, lead to it. Raises EnvironmentFault with the earlier ones untouched.
    """
    path = folder / _named(step)
    if not _is_whole(path):  # the same step again, after a stop right there: what is there already stays
        with atomic_path(path) as temp:
            write_atomically(_digest(path), _write(temp, state))
    _name(path, best=best)
    for old in _numbered(folder)[keep:]:
        _remove(old)
    return path


def go_on_from(path: Path, *, step: int, best: bool) -> None:
    """Make `path`, a whole checkpoint of `step`, the newest of its folder: `last.pt`, and `best.pt` too with `best`.

    Later ones go: the run that goes on writes them anew. What a kill left undone between two links is made up for.
    """
    numbered = path.with_name(_named(step))
    if path != numbered and not _is_whole(numbered):
        _link(_digest(path), _digest(numbered))
        _link(path, numbered)
    _name(numbered, best=best)
    for later in _numbered(path.parent):
        if _step_of(later) > step:
            _remove(later)


def _named(step: int) -> str:
    return f"step-{step:08d}.pt"


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _digest(path: Path) -> Path:
    return path.with_name(path.name + _DIGEST)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _digest(path).unlink(missing_ok=True)


def _name(path: Path, *, best: bool) -> None:
    """Let `last.pt`, and `best.pt` with `best`, lead to a numbered checkpoint."""
    for name in ("last.pt", "best.pt") if best else ("last.pt",):
        target = path.with_name(name)
        _link(path, target)
        _link(_digest(path), _digest(target))


def _write(path: Path, state: dict[str, Any]) -> str:
    import torch

    with path.open("wb") as raw:
        stream = _HashingStream(raw)
        try:
            torch.save(state, stream)  # type: ignore[arg-type]
        except RuntimeError:
            if stream.error is not None:
                raise stream.error from None
            raise
    return stream.digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`; a file system without hard links gets a copy."""
    with atomic_path(target) as temp:
        try:
            os.link(source, temp)
        except OSError:
            shutil.copyfile(source, temp)


def _numbered(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = [path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+", path.stem)]
    return sorted(found, key=_step_of, reverse=True)


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint is there with its SHA-256 beside it, and has it."""
    digest = _digest(path)
    if not path.is_file() or not digest.is_file():
        return False
    return digest.read_text(encoding="ascii", errors="replace").strip() == sha256_of(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint. Raises IntegrityError when it is missing, damaged, or holds more than plain data."""
    import torch

    if not path.is_file():
        raise IntegrityError("there is no such checkpoint", where=str(path))
    if not _is_whole(path):
        raise IntegrityError("the checkpoint is damaged: its SHA-256 is missing or another", where=str(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise IntegrityError("the checkpoint is refused: it holds more than plain data", where=str(path)) from error
    if not isinstance(state, dict):
        raise IntegrityError("not a checkpoint of spt", where=str(path))
    return state


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and its state; None when there is none at all.

    A damaged one is passed over with a warning, `best.pt` is the last that is tried. Raises IntegrityError when every
    one is damaged.
    """
    damaged, best = None, folder / "best.pt"
    for path in [*_numbered(folder), *([best] if best.exists() else [])]:
        try:
            return path, load_checkpoint(path)
        except IntegrityError as error:
            damaged = error
            warn(f"{error}; falling back to the checkpoint before it")
    if damaged is not None:
        raise damaged
    return None
