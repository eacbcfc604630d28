"""Where a set may be written, and what happens to what lies there. Numbers are fault-table rows."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from sptcore.data.locate import locate
from sptcore.data.lock import build_lock
from sptcore.data.sparse import SparsePlan, SparseRule, default_out
from sptcore.errors import EnvironmentFault, IntegrityError, UsageError
from sptcore.files import TEMP_MARK
from tests.support.miniatures import mini_coco
from tests.support.sparse_sets import FIFTH, kept_ids, make, tree

QUARTER = Fraction("0.25")


def test_an_existing_set_needs_force(root: Path, tmp_path: Path) -> None:  # 54
    out = tmp_path / "out"
    make(root, out)
    before = tree(out)
    with pytest.raises(EnvironmentFault, match="exists already"):
        make(root, out, QUARTER)
    assert tree(out) == before
    make(root, out, SparseRule(QUARTER, drop_empty=True), force=True)
    assert kept_ids(out) == [7]
    assert sorted(os.listdir(tmp_path)) == ["mini", "out"]


def test_a_folder_of_someone_else_is_never_replaced(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    for force in (False, True):
        with pytest.raises(EnvironmentFault, match="did not write"):
            make(root, tmp_path / "thesis", force=force)
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


def test_a_file_and_a_missing_parent(root: Path, tmp_path: Path) -> None:  # 52
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFault, match="no folder"):
        make(root, tmp_path / "file", force=True)
    with pytest.raises(EnvironmentFault, match="go into is a file"):
        make(root, tmp_path / "file" / "b")
    with pytest.raises(EnvironmentFault, match="does not exist") as caught:
        make(root, tmp_path / "a" / "b")
    assert "mkdir -p" in (caught.value.hint or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_one_may_not_write(root: Path, tmp_path: Path) -> None:  # 52
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(EnvironmentFault, match="Permission denied"):
        make(root, tmp_path / "locked" / "out")


def test_the_input_is_no_output(root: Path, tmp_path: Path) -> None:  # 53
    before = tree(root)
    for out in (root, root.parent, root / "annotations" / ".."):
        with pytest.raises(UsageError, match="own input"):
            make(root, out, force=True)
    inner = tmp_path / f"{TEMP_MARK}1-x"
    inner.mkdir()
    with pytest.raises(UsageError, match="under way"):
        make(root, inner / "out")
    out = tmp_path / "out"
    make(root, out)
    with pytest.raises(UsageError, match="own input"):
        make(out, out, force=True)
    assert tree(root) == before


def test_a_set_inside_another_one_is_refused(root: Path, tmp_path: Path) -> None:
    """The outer one would look damaged: its manifest names every file below it."""
    out, part = tmp_path / "out", tmp_path / "part"
    make(root, out)
    make(root, part, shard=(1, 2))
    (tmp_path / "plain").mkdir()
    (tmp_path / "link").symlink_to(out)
    for outer in (out, out / "annotations", part, tmp_path / "link"):
        for force in (False, True):
            with pytest.raises(UsageError, match="would then look damaged") as caught:
                make(root, outer / "inner", force=force)
            assert caught.value.where == str(outer / "inner")
            assert "--out" in (caught.value.hint or "")
    with pytest.raises(EnvironmentFault, match="its files as its manifest says"):
        make(root, out)
    make(root, tmp_path / "plain" / "inner")
    (out / "manifest.json").write_text('{"schema": "spt.sparse-set/99"}')
    with pytest.raises(UsageError, match="would then look damaged"):
        make(root, out / "inner")


def test_two_builders(root: Path, tmp_path: Path) -> None:  # 55
    out = tmp_path / "out"
    with build_lock(out):
        with pytest.raises(EnvironmentFault, match=f"being built by pid {os.getpid()}"):
            make(root, out)
        assert not out.exists()
    make(root, out)


def test_what_a_dead_builder_left_is_removed(root: Path, tmp_path: Path) -> None:  # 55
    leftover = tmp_path / f"{TEMP_MARK}99999999-0123abcd-out"
    (leftover / "annotations").mkdir(parents=True)
    (tmp_path / ".out.spt-lock").write_text("99999999")
    make(root, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["mini", "out"]


def test_the_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = locate(mini_coco(tmp_path / "coco"))
    assert default_out(source, SparseRule(FIFTH), SparsePlan(dry_run=True)) == Path("data/coco-s20")
    assert not Path("data").exists()
    monkeypatch.setenv("SPT_DATA", str(tmp_path / "sets"))
    out = default_out(source, SparseRule(Fraction("0.125")), SparsePlan(pad=(2, 2)))
    assert out == tmp_path / "sets" / "coco-s12.5-pad2x2"
    assert out.parent.is_dir()
    assert default_out(source, SparseRule(FIFTH), SparsePlan(shard=(2, 8))).name == "coco-s20.part-2-of-8"


@pytest.mark.parametrize("named", [50, 0])
def test_a_rerun_verifies_the_files_that_lie_there(
    root: Path, tmp_path: Path, named: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sptcore.data.sparse.publish.FILES_NAMED", named)
    out = tmp_path / "out"
    make(root, out)
    (out / "labels-train.h5").write_bytes(b"made later")
    assert not make(root, out, resume=True).built
    with pytest.raises(EnvironmentFault, match="exists already, its files as its manifest says"):
        make(root, out)
    file = out / "annotations" / "instances_train2017.json"
    file.write_bytes(file.read_bytes().replace(b"7", b"8", 1))
    for resume in (False, True):
        with pytest.raises(IntegrityError, match="manifest") as caught:
            make(root, out, resume=resume)
        assert str(file if named else out) == caught.value.where
    assert make(root, out, force=True).built


def test_a_complete_set_is_not_taken_for_one_with_other_images(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "out")
    for other in ({"pad": (2, 2)}, {"splits": ("train",)}, {"images": "copy"}):
        with pytest.raises(IntegrityError, match="of another source or rule"):
            make(root, tmp_path / "out", resume=True, **other)
