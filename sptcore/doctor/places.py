"""Checks of folders, data and plug-ins."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from sptcore.doctor import Check
from sptcore.errors import DataError, SptError


def judge_places() -> list[Check]:
    """Cache and run folders writable, shared memory large enough, data sets found, plug-ins load."""
    from sptcore.cache import cache_folder
    from sptcore.runs import runs_root

    checks = [judge_folder("cache", cache_folder(), "SPT_CACHE"), judge_folder("runs", runs_root(), "SPT_RUNS")]
    shared = judge_shared_memory(Path("/dev/shm"))
    return [*checks, *([shared] if shared else []), *judge_data(), *judge_plugins()]


def judge_folder(name: str, folder: Path, variable: str) -> Check:
    """Whether `folder`, or the nearest folder above it that exists, takes a file."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    trial = place / f".spt-doctor-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        trial.write_bytes(b"x")
        trial.unlink()
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(
            name, "fail", f"{folder} cannot be written: {error.strerror}", f"set {variable} to a folder of yours"
        )
    gigabytes = free / 1e9
    state = "ok" if gigabytes >= 1 else "note"
    return Check(name, state, f"{folder}, {gigabytes:.1f} GB free")


def judge_shared_memory(folder: Path) -> Check | None:
    """Loader processes pass batches through shared memory; containers often have 64 MB of it."""
    try:
        total = shutil.disk_usage(folder).total
    except OSError:
        return None
    if total >= 256 * 2**20:
        return None
    return Check(
        "shared memory",
        "note",
        f"{folder} has {total // 2**20} MB",
        "start the container with --shm-size=2g, or train with --workers 0",
    )


def judge_data() -> list[Check]:
    """Which of the named data sets are found; none is a failure, since any path may be used instead."""
    from sptcore.data import formats
    from sptcore.data.locate import locate

    checks = []
    for name in formats():
        try:
            checks.append(Check(f"data {name}", "ok", str(locate(name).root)))
        except DataError as error:
            checks.append(Check(f"data {name}", "note", "not found", error.hint))
        except SptError as error:
            checks.append(Check(f"data {name}", "fail", str(error), error.hint))
    return checks


def judge_plugins() -> list[Check]:
    """Every plug-in of other packages, loaded."""
    from importlib.metadata import entry_points

    checks = []
    for group in ("spt.formats", "spt.models"):
        for point in entry_points(group=group):
            package = point.dist.name if point.dist else point.value
            try:
                point.load()
            except Exception as error:  # a plug-in may fail in any way; here that is the finding
                checks.append(
                    Check(f"plug-in {point.name}", "fail", f"{package}: {error!r}", f"pip uninstall {package}")
                )
            else:
                checks.append(Check(f"plug-in {point.name}", "ok", package))
    return checks
