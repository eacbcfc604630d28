"""Which task a data set is for when nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.data.locate import locate
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.training.task_choice import task_for
from tests.support.miniatures import mini_coco
from tests.support.tiny import make_tiny


def test_the_format_decides(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path / "tiny-imagenet-200")
    make_sparse(locate(tiny), SparseRule(None), tmp_path / "in-s", SparsePlan(pad=(2, 2)))
    assert task_for(str(tiny)) == task_for(str(tmp_path / "in-s")) == "classify"
    assert task_for("tiny-imagenet") == task_for("anything", format="tiny-imagenet") == "classify"
    assert task_for("tiny-imagenet-200", root=tmp_path) == "classify"
    assert task_for(str(mini_coco(tmp_path / "coco"))) == "detect"


def test_the_sample_and_what_is_not_there_count_as_detect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPT_CACHE", str(tmp_path))
    assert task_for("sample") == "detect"
    assert not list(tmp_path.iterdir())  # nothing is drawn for the question
    assert task_for("sample", format="tiny-imagenet") == "classify"
    assert task_for("no-such-set") == task_for("coco", root=tmp_path) == "detect"
