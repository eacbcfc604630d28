"""A store made to crash, hang or mislead its reader does so in a child, never here (faults 62)."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError, IntegrityError
from sptcore.labels.build import build_labels, untrusted, verify_untrusted
from tests.support.label_stores import coco_set
from tests.support.listening import Listener


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, DatasetIndex]:
    folder = tmp_path_factory.mktemp("built")
    index = open_index(coco_set(folder / "set", 100), "train")
    build_labels(index, folder / "labels.h5")
    return folder / "labels.h5", index


def test_a_sound_file(built):
    listener = Listener()
    assert verify_untrusted(*built, progress=listener) == 100
    assert listener.stages == {"verify the label store": 100, "derive the labels again": 100}


def test_errors_arrive_as_they_are(built, tmp_path):
    path, index = built
    damaged = bytearray(path.read_bytes())
    damaged[-300] ^= 1
    (tmp_path / "labels.h5").write_bytes(damaged)
    with pytest.raises(IntegrityError, match="damaged") as caught:
        verify_untrusted(tmp_path / "labels.h5", index)
    assert caught.value.where == str(tmp_path / "labels.h5")
    with pytest.raises(DataError, match="no label store"):
        verify_untrusted(tmp_path / "none.h5", index)


def crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(*_: object) -> None:
    os._exit(0)


def hang(*_: object) -> None:
    time.sleep(3600)


class _Trap:
    """Stands for an index whose arrival in the child does what a hostile file would do to HDF5."""

    def __init__(self, action) -> None:
        self.action = action

    def __reduce__(self):
        return self.action, ()


@pytest.mark.parametrize(("action", "code"), [(crash, -int(signal.SIGSEGV)), (leave, 0)])
def test_a_child_that_dies(built, action, code):
    with pytest.raises(IntegrityError, match=rf"ended its process \(exit code {code}\): damaged or hostile") as caught:
        verify_untrusted(built[0], _Trap(action))  # type: ignore[arg-type]
    assert caught.value.exit_code == 5


def test_a_child_that_never_ends(built, monkeypatch):
    clock = iter(range(0, 10**9, 60))
    monkeypatch.setattr(untrusted, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(untrusted, "_POLL", 0.01)
    with pytest.raises(IntegrityError, match="does not end"):
        verify_untrusted(built[0], _Trap(hang))  # type: ignore[arg-type]
