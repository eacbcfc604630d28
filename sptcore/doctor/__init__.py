"""What this machine has, and whether it works: versions, pairings, devices, folders, self-tests.

Libraries are tried in a child process, since a broken one may take its process with it; a broken or missing torch is
a line of the report, never the end of it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sptcore.progress import SILENT, Progress

State = Literal["ok", "note", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing looked at: `ok`, `note` (works, or is not needed here; worth knowing) or `fail`, with its cure."""

    name: str
    state: State
    message: str
    cure: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All that was found: machine facts, versions by distribution (None: not installed) and the checks."""

    machine: Mapping[str, object]
    versions: Mapping[str, str | None]
    checks: tuple[Check, ...]

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.state == "fail"]


def diagnose(
    *, gpu_test: bool = False, environment: Mapping[str, str] | None = None, progress: Progress = SILENT
) -> Diagnosis:
    """Look at everything; `gpu_test` runs our operations on a GPU against the CPU, and fails where there is none.

    `environment` is that of the child process that tries the libraries (default: this process's own).
    """
    from sptcore.doctor.libraries import judge_libraries, judge_versions, versions
    from sptcore.doctor.places import judge_places

    progress.start("trying the libraries", None)
    facts = try_libraries(gpu_test, environment)
    progress.finish()
    checks = [*judge_versions(), *judge_libraries(facts, gpu_test=gpu_test), *judge_places()]
    return Diagnosis(machine(), versions(), tuple(checks))


def machine() -> dict[str, object]:
    """Operating system, processor count and Python of this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_version()} ({sys.executable})",
        "cpus": usable,
        "threads": os.environ.get("OMP_NUM_THREADS") or "not limited",
    }


def try_libraries(gpu_test: bool, environment: Mapping[str, str] | None = None) -> dict[str, dict[str, object]]:
    """Facts of each library as the child process `sptcore.doctor.probe` reports them.

    A library without facts took the child with it; the key `ended` tells how.
    """
    import json
    import subprocess
    from pathlib import Path

    from sptcore.doctor.probe import MARK

    env = dict(os.environ if environment is None else environment)
    root = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(part for part in (env.get("PYTHONPATH", ""), root) if part)
    command = [sys.executable, "-m", "sptcore.doctor.probe", *(["--gpu"] if gpu_test else [])]
    try:
        done = subprocess.run(command, env=env, capture_output=True, timeout=540)
        output, errors, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        output, errors, code = late.stdout or b"", late.stderr or b"", -1
    lines = output.decode(errors="replace").splitlines()
    facts = {fact["name"]: fact for fact in (json.loads(line[len(MARK) :]) for line in lines if line.startswith(MARK))}
    if code:
        last = (errors.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        facts["ended"] = {"error": f"the trial process ended with {code}: {last}"}
    return facts
