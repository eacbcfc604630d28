"""One builder at a time; a dead one's lock and leavings do not stand in the way (faults 55)."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading

import pytest

from sptcore.data.locate import open_index
from sptcore.data.lock import build_lock
from sptcore.errors import EnvironmentFault
from sptcore.files import TEMP_MARK
from sptcore.labels.build import build_labels
from tests.support.label_stores import coco_set
from tests.support.listening import Listener


def test_the_second_builder_is_turned_away(tmp_path):
    index, out = open_index(coco_set(tmp_path / "set", 3), "train"), tmp_path / "labels.h5"
    with build_lock(out), pytest.raises(EnvironmentFault, match=f"being built by pid {os.getpid()}") as caught:
        build_labels(index, out)
    assert caught.value.exit_code == 4
    assert not out.exists()
    build_labels(index, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.h5", "set"]


def test_another_target_is_another_lock(tmp_path):
    with build_lock(tmp_path / "a.h5"), build_lock(tmp_path / "b.h5"):
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owner_does_not_matter(tmp_path):
    out = tmp_path / "labels.h5"
    code = (
        "import os, sys; from pathlib import Path; from sptcore.data.lock import build_lock\n"
        "lock = build_lock(Path(sys.argv[1])); lock.__enter__(); print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    ran = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("held\n", -9)
    assert [path.name for path in tmp_path.iterdir()] == [".labels.h5.spt-lock"]
    with build_lock(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_leavings_of_a_killed_builder_are_removed_and_nothing_else(tmp_path):
    out = tmp_path / "labels.h5"
    dead, others = tmp_path / f"{TEMP_MARK}77-0123abcd-labels.h5", tmp_path / f"{TEMP_MARK}77-0123abcd-my-labels.h5"
    for path in (dead, others, tmp_path / "labels.h5.bak"):
        path.write_bytes(b"x")
    with build_lock(out):
        assert not dead.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([others.name, "labels.h5.bak"])


def test_waiting_for_the_first_builder(tmp_path):
    out, listener, order = tmp_path / "labels.h5", Listener(), []
    entered, release = threading.Event(), threading.Event()

    def first() -> None:
        with build_lock(out):
            entered.set()
            release.wait()
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    listener.note = lambda message: (listener.notes.append(message), release.set())  # type: ignore[method-assign]
    with build_lock(out, wait=True, progress=listener):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert len(listener.notes) == 1
    assert f"pid {os.getpid()}; waiting" in listener.notes[0]


def test_many_at_once_never_overlap(tmp_path):
    out, inside, worst = tmp_path / "labels.h5", [], []

    def builder() -> None:
        for _ in range(5):
            with build_lock(out, wait=True):
                inside.append(1)
                worst.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=builder) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 20
    assert max(worst) == 1


def test_a_disk_without_locks_is_warned_of(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    listener = Listener()
    with build_lock(tmp_path / "labels.h5", progress=listener):
        assert "No locks available" in listener.warnings[0]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(EnvironmentFault, match="cannot write"), build_lock(tmp_path / "no" / "labels.h5"):
        pass
