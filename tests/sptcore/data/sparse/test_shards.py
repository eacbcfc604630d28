"""The same bytes whatever the jobs, the parts and the interruptions. Numbers are fault-table rows."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest

from sptcore.data.format import ReadOptions
from sptcore.data.locate import locate
from sptcore.data.rasterize import PixelRule
from sptcore.data.sparse import SparsePlan, SparseRule, make_sparse
from sptcore.data.sparse import measure as measuring
from sptcore.errors import DataError, IntegrityError
from tests.support.listening import Listener
from tests.support.miniatures import coco_document, write_coco_file
from tests.support.sparse_sets import FIFTH, make, tree

pytestmark = pytest.mark.usefixtures("small_blocks")
QUARTER = Fraction("0.25")


@pytest.fixture
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert 20 < make(many, out).kept < 268
    return out


def test_whatever_the_jobs(many: Path, whole: Path, tmp_path: Path) -> None:
    make(many, tmp_path / "two", jobs=2)
    assert tree(tmp_path / "two") == tree(whole)


def test_on_any_executor(many: Path, whole: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        make(many, tmp_path / "threads", executor=executor)
    assert tree(tmp_path / "threads") == tree(whole)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_in_parts(many: Path, whole: Path, tmp_path: Path, count: int) -> None:
    parts = [tmp_path / f"part {number}" for number in range(1, count + 1)]
    for number, part in enumerate(parts, start=1):
        make(many, part, shard=(number, count))
        assert os.listdir(part) == ["shard.json"]
    make(many, tmp_path / "merged", merge=tuple(reversed(parts)))
    assert tree(tmp_path / "merged") == tree(whole)


def test_parts_that_do_not_belong_together(many: Path, root: Path, tmp_path: Path) -> None:
    make(many, tmp_path / "one", shard=(1, 2))
    make(many, tmp_path / "two", SparseRule(FIFTH, pixels=PixelRule(ratio_from="boxes")), shard=(2, 2))
    make(root, tmp_path / "other", shard=(2, 2))
    for folders, words in [
        (("one",), "not all parts"),
        (("one", "one"), "not all parts"),
        (("one", "two"), "2/2 was measured .* by another rule"),
        (("one", "other"), "2/2 was measured on another source"),
    ]:
        with pytest.raises(IntegrityError, match=words):
            make(many, tmp_path / "out", merge=tuple(tmp_path / folder for folder in folders))
    with pytest.raises(DataError, match="no part"):
        make(many, tmp_path / "out", merge=(root,))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_stopped_and_resumed(many: Path, whole: Path, tmp_path: Path, jobs: int) -> None:
    source, out = locate(many), tmp_path / "out"

    def stop(step: int) -> None:
        if step >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sparse(source, SparseRule(FIFTH), out, SparsePlan(jobs=jobs), progress=Listener(stop))
    assert sorted(os.listdir(tmp_path)) == [".out.spt-work"]
    calls = []
    original = measuring.measure_block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "measure_block", lambda block, rule: calls.append(1) or original(block, rule))
        make_sparse(source, SparseRule(FIFTH), out, SparsePlan(resume=True))
    assert len(calls) == 4, "two of the six blocks were done"
    assert tree(out) == tree(whole)
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_resume_under_another_rule_is_refused(root: Path, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sparse(locate(root), SparseRule(FIFTH), tmp_path / "out", progress=Listener(stop))
    with pytest.raises(IntegrityError, match="another rule"):
        make(root, tmp_path / "out", SparseRule(FIFTH, pixels=PixelRule(crowd="exclude")), resume=True)


@pytest.mark.parametrize("options", [ReadOptions(strict=True), ReadOptions(size=(64, 48))])
def test_resume_of_blocks_that_were_read_otherwise_is_refused(root: Path, tmp_path: Path, options: ReadOptions) -> None:
    def stop(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sparse(locate(root), SparseRule(FIFTH), tmp_path / "out", progress=Listener(stop))
    source = dataclasses.replace(locate(root), options=options)
    with pytest.raises(IntegrityError, match="another source or another rule"):
        make_sparse(source, SparseRule(FIFTH), tmp_path / "out", SparsePlan(resume=True))


def test_resume_of_a_changed_source_is_refused(root: Path, tmp_path: Path) -> None:  # 56
    def stop(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sparse(locate(root), SparseRule(FIFTH), tmp_path / "out", progress=Listener(stop))
    document = coco_document()
    document["annotations"].pop()
    write_coco_file(root / "annotations" / "instances_train2017.json", document)
    with pytest.raises(IntegrityError, match="another source"):
        make(root, tmp_path / "out", resume=True)
    make(root, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["mini", "out"]


def test_resume_of_a_complete_set(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(root, out)
    before = tree(out)
    listener = Listener()
    report = make_sparse(locate(root), SparseRule(FIFTH), out, SparsePlan(resume=True), progress=listener)
    assert (report.built, report.kept) == (False, 4)
    assert "complete already" in listener.notes[-1]
    with pytest.raises(IntegrityError, match="of another source or rule"):
        make(root, out, QUARTER, resume=True)
    assert tree(out) == before
