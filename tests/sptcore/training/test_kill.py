"""SIGKILL at any moment of a run in a process of its own: the resumed run ends bit for bit like one undisturbed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sptcore.runs import Run
from tests.support.training import difference, final_state, mini_data, tiny_run

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"epochs": 3}


def start(folder: Path, data: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.training", str(folder), str(data), json.dumps(SETTINGS)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_as_if_undisturbed(tmp_path: Path) -> None:
    data = mini_data(tmp_path / "data")
    whole = tiny_run(tmp_path / "whole", data, **SETTINGS).run
    folder, generator = tmp_path / "run", random.Random(3)
    kills = 0
    for _ in range(2):
        process = start(folder, data)
        target = lines(folder) + generator.randrange(1, 4)
        deadline = time.monotonic() + 300
        while process.poll() is None and lines(folder) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(generator.random() * 0.1)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    process = start(folder, data)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()
    assert kills >= 1
    assert difference(final_state(whole), final_state(Run(folder))) is None
