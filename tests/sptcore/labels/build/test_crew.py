"""Workers that die, raise or stand still end the build soon, and say at which image (faults 57)."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from sptcore.data.locate import open_index
from sptcore.data.records import ImageRecord
from sptcore.errors import DataError, ResourceError
from sptcore.labels.build import Recipe, crew, staging
from sptcore.labels.store import LabelEntry
from tests.support.label_stores import coco_set
from tests.support.listening import Listener

VICTIM = 3 * 20 + 1  # the image at which things go wrong


class Deadly(Recipe):
    """As the kernel's OOM killer."""

    def entry(self, record: ImageRecord, *, repaired: bool = False) -> LabelEntry:
        if record.image_id == VICTIM:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().entry(record, repaired=repaired)


class Faulty(Recipe):
    def entry(self, record: ImageRecord, *, repaired: bool = False) -> LabelEntry:
        if record.image_id == VICTIM:
            raise DataError("a mask is damaged", where="mask.png", hint="fetch it again")
        return super().entry(record, repaired=repaired)


class Odd(Exception):
    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} {two}")
        self.lock = threading.Lock()  # does not pickle


class Buggy(Recipe):
    def entry(self, record: ImageRecord, *, repaired: bool = False) -> LabelEntry:
        if record.image_id == VICTIM:
            raise Odd("left", "right")
        return super().entry(record, repaired=repaired)


class Quitting(Recipe):
    def entry(self, record: ImageRecord, *, repaired: bool = False) -> LabelEntry:
        if record.image_id == VICTIM:
            os._exit(3)
        return super().entry(record, repaired=repaired)


@dataclass(frozen=True)
class Sleepy(Recipe):
    marker: str = ""

    def entry(self, record: ImageRecord, *, repaired: bool = False) -> LabelEntry:
        if record.image_id == VICTIM:
            Path(self.marker).touch()
            time.sleep(3600)
        return super().entry(record, repaired=repaired)


def run(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch, block: int = 8) -> Listener:
    monkeypatch.setattr(staging, "BLOCK", block)
    index = open_index(coco_set(folder / "set", 40), "train")
    blocks = staging.Staging(folder / "labels.h5", index, Recipe()).begin(resume=False, progress=Listener())
    listener = Listener()
    listener.start("label", len(index.records))
    crew.build_blocks(recipe, blocks, 2, listener)
    return listener


def test_all_is_well(tmp_path, monkeypatch):
    listener = run(Recipe(), tmp_path, monkeypatch)
    assert listener.steps == 40
    assert len(list(tmp_path.glob(".labels.h5.spt-parts/block-*.h5"))) == 5


@pytest.mark.parametrize(("recipe", "cause"), [(Deadly(), r"killed by signal 9"), (Quitting(), r"exit code 3")])
def test_a_dead_worker_is_named_by_its_image(tmp_path, monkeypatch, recipe, cause):
    with pytest.raises(ResourceError, match=rf"{cause}\) at image {VICTIM} \('0020\.png'\)") as caught:
        run(recipe, tmp_path, monkeypatch)
    assert caught.value.exit_code == 7
    assert "--jobs" in caught.value.hint


def test_an_error_of_ours_arrives_whole(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="a mask is damaged") as caught:
        run(Faulty(), tmp_path, monkeypatch)
    assert (caught.value.where, caught.value.hint) == ("mask.png", "fetch it again")


def test_any_other_error_arrives_in_some_form(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="Odd: left right"):
        run(Buggy(), tmp_path, monkeypatch)


def test_a_worker_that_stands_still(tmp_path, monkeypatch):
    """The clock races once the worker is known to sleep, so that a slow start is not taken for standing still."""
    marker, leaps = tmp_path / "asleep", []

    def clock() -> float:
        leaps.extend([1.0] * marker.exists())
        return time.monotonic() + 100 * len(leaps)

    monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=clock))
    with pytest.raises(ResourceError, match=rf"stood still for 600 s at image {VICTIM} "):
        run(Sleepy(marker=str(marker)), tmp_path, monkeypatch, block=4096)
