"""A make-sparse run that dies at a chosen point: `python -m tests.support.killed_build ROOT OUT POINT JOBS`.

POINT is `image:N` (after N images), `write` (annotations written, no manifest yet), `publish` (just before the folder
is put in place) or `published` (just after); `worker:N` kills a worker process instead of this one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from fractions import Fraction
from pathlib import Path

from sptcore import files
from sptcore.data.locate import locate
from sptcore.data.sparse import SparsePlan, SparseRule, job, make_sparse
from sptcore.data.sparse import measure as measuring
from sptcore.errors import SptError
from tests.support.listening import Listener


def die() -> None:
    """The end no handler sees."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the build; an error of ours becomes its exit code and one line."""
    root, out, point, jobs = sys.argv[1:5]
    measuring.BLOCK = 20
    kind, _, number = point.partition(":")

    def at_step(step: int) -> None:
        if kind == "image" and step >= int(number):
            die()
        if kind == "worker" and step >= int(number):
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)

    if kind == "write":
        job.write_manifest = lambda *_: die()
    elif kind in ("publish", "published"):
        original = files._put_in_place

        def put(temp: Path, path: Path, replace: bool) -> None:
            if kind == "published":
                original(temp, path, replace)
            die()

        files._put_in_place = put
    plan = SparsePlan(jobs=int(jobs), force=True)
    try:
        make_sparse(locate(root), SparseRule(Fraction("0.2")), Path(out), plan, progress=Listener(at_step))
    except SptError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
