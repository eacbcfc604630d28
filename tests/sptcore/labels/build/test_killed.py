"""SIGKILL at any image: what is published is whole, the rest is resumed to the same bytes, no orphan stays (faults 48).

`tests/bench/labels.py --kills 50` does the same at as many points as wanted.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sptcore.data.locate import open_index
from sptcore.labels.build import build_labels, staging
from sptcore.labels.store import LabelStore
from tests.support.label_stores import coco_set

IMAGES, BLOCK = 48, 8

BUILDER = """
import multiprocessing, sys
from sptcore.data.locate import open_index
from sptcore.labels.build import build_labels, staging

class Teller:
    def tell(self, *words):
        print(*words, flush=True)
    def start(self, title, total): self.tell("stage", title)
    def finish(self): self.tell("end")
    def note(self, message): self.tell("note", message)
    def warn(self, message): self.tell("warn", message)
    def advance(self, steps=1, **fields):
        workers = [child.pid for child in multiprocessing.active_children()]
        for _ in range(steps):
            self.tell("step", *workers)

if __name__ == "__main__":
    staging.BLOCK = int(sys.argv[4])
    index = open_index(sys.argv[1], "train")
    build_labels(index, sys.argv[2], jobs=int(sys.argv[3]), resume=True, progress=Teller())
"""


def kill_after(lines: int, builder: subprocess.Popen[str]) -> set[int]:
    """Read `lines` lines of the builder's account, then kill it; the ids of its workers."""
    assert builder.stdout is not None
    workers: set[int] = set()
    for _ in range(lines):
        words = builder.stdout.readline().split()
        workers |= {int(word) for word in words[1:]} if words[:1] == ["step"] else set()
    builder.kill()
    builder.wait()
    return workers


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_anywhere_and_resumed(tmp_path, monkeypatch, jobs):
    monkeypatch.setattr(staging, "BLOCK", BLOCK)
    root, out, script = coco_set(tmp_path / "set", IMAGES), tmp_path / "labels.h5", tmp_path / "builder.py"
    script.write_text(BUILDER)
    index = open_index(root, "train")
    build_labels(index, tmp_path / "whole.h5")
    whole = (tmp_path / "whole.h5").read_bytes()
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    points = sorted(random.Random(7).sample(range(1, 2 * IMAGES), 4))
    for point in points:
        command = [sys.executable, str(script), str(root), str(out), str(jobs), str(BLOCK)]
        workers = kill_after(
            point, subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path.cwd())
        )
        if out.exists():
            assert LabelStore(out).verify() == IMAGES
            assert out.read_bytes() == whole
        limit = time.monotonic() + 60
        while not all(map(gone, workers)):
            assert time.monotonic() < limit, f"workers {workers} outlived their parent"
            time.sleep(0.05)
    build_labels(index, out, resume=True)
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["builder.py", "labels.h5", "set", "whole.h5"]


def test_a_worker_ends_with_its_parent_even_between_blocks(tmp_path):
    """The parent is stopped, so that it can give no more work, then killed: its worker must not wait for ever."""
    script = tmp_path / "builder.py"
    script.write_text(BUILDER)
    root = coco_set(tmp_path / "set", IMAGES)
    command = [sys.executable, str(script), str(root), str(tmp_path / "labels.h5"), "2", "4"]
    builder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert builder.stdout is not None
    words: list[str] = []
    while words[:1] != ["step"]:
        words = builder.stdout.readline().split()
    os.kill(builder.pid, signal.SIGSTOP)
    builder.kill()
    builder.wait()
    limit = time.monotonic() + 60
    while not all(gone(int(pid)) for pid in words[1:]):
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert len(words) == 3
