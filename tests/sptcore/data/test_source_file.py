"""Source files that change between reading and writing, in the formats of many files. Numbers are fault-table rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.data import formats
from sptcore.data.locate import locate, open_index
from sptcore.data.records import DatasetIndex
from sptcore.data.source_file import check_marks, mark_of
from sptcore.data.sparse import SparseRule, make_sparse
from sptcore.errors import DataError, IntegrityError
from sptcore.labels.build import build_labels
from sptcore.progress import Silent
from tests.support.tiny import WNIDS, make_tiny
from tests.support.voc import make_voc, voc_object, voc_xml, write_palette_mask


def voc(root: Path) -> list[Path]:
    """Three images, one of them with a mask, one too full to be kept; the files that are read."""
    small, full = voc_object("cat", (3, 3, 8, 8)), voc_object("dog", (1, 1, 40, 30))
    year = make_voc(root, {"a": voc_xml(small), "b": voc_xml(small), "full": voc_xml(full)})
    mask = np.zeros((30, 40), np.uint8)
    mask[2:8, 2:8] = 1
    write_palette_mask(year / "SegmentationObject" / "a.png", mask)
    return [
        *(year / "Annotations" / f"{name}.xml" for name in ("a", "b", "full")),
        year / "SegmentationObject" / "a.png",
        year / "ImageSets" / "Main" / "train.txt",
    ]


def tiny(root: Path) -> list[Path]:
    make_tiny(root)
    return [root / "wnids.txt", root / "words.txt", *(root / "train" / w / f"{w}_boxes.txt" for w in WNIDS)]


def bitmasks(root: Path) -> list[Path]:
    folder = root / "labels" / "ins_seg" / "bitmasks" / "train"
    folder.mkdir(parents=True)
    for name, side in (("a", 2), ("b", 2), ("full", 8)):
        pixels = np.zeros((8, 8, 4), np.uint8)
        pixels[:side, :side] = (3, 0, 0, 1)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def rewritten(path: Path) -> None:
    """Other bytes, as many as before."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))  # a clock may be too coarse for two writes in a row


def replaced(path: Path) -> None:
    """The same bytes and time in another file, as `mv` leaves it."""
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


SETS = {"voc": voc, "tiny-imagenet": tiny, "bdd": bitmasks}
CHANGES: tuple[Callable[[Path], None], ...] = (rewritten, replaced, Path.unlink)


def written(index: DatasetIndex, out: Path) -> list[Path]:
    out.mkdir()
    return formats()[index.format].write_subset(index, {index.records[0].image_id}, out)


@pytest.mark.parametrize("format", SETS)
def test_every_file_that_was_read_is_compared_before_a_subset_is_done(format: str, tmp_path: Path) -> None:  # 56
    n_files = len(SETS[format](tmp_path / "count"))
    for number in range(n_files):
        for change in CHANGES:
            root = tmp_path / f"{number}-{change.__name__}"
            path = SETS[format](root)[number]
            index = open_index(str(root), "train", format=format)
            assert str(path) in index.marks
            assert written(index, root / "sound")
            change(path)
            with pytest.raises((IntegrityError, DataError)) as caught:
                written(index, root / "out")
            assert str(path) in str(caught.value.where) or change is Path.unlink
            if change is not Path.unlink:
                assert isinstance(caught.value, IntegrityError)


@pytest.mark.parametrize("format", SETS)
def test_make_sparse_publishes_nothing_of_a_source_that_changes_meanwhile(format: str, tmp_path: Path) -> None:  # 56
    path = SETS[format](tmp_path / "set")[2]  # of an image that is not kept, too

    class Changing(Silent):
        def advance(self, steps: int = 1, **fields: object) -> None:
            rewritten(path)

    source, rule = locate(str(tmp_path / "set"), format=format), SparseRule(Fraction("0.5"))
    with pytest.raises(IntegrityError, match="changed while it was being read") as caught:
        make_sparse(source, rule, tmp_path / "out", progress=Changing())
    assert caught.value.where == str(path)
    assert os.listdir(tmp_path) == ["set"]


def test_labels_of_masks_that_change_meanwhile_are_not_published(tmp_path: Path) -> None:  # 56
    mask = voc(tmp_path / "set")[3]
    index = open_index(str(tmp_path / "set"), "train", format="voc")
    build_labels(index, tmp_path / "sound.h5")
    for _ in range(2):  # the picture is sound again, but no longer the file that was read
        rewritten(mask)
    with pytest.raises(IntegrityError, match="changed while it was being read"):
        build_labels(index, tmp_path / "labels.h5")
    assert sorted(os.listdir(tmp_path)) == ["set", "sound.h5"]


def test_marks_tell_files_apart_and_leave_sound_ones_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    marks = {str(path): mark_of(path.stat())}
    check_marks(marks)
    path.chmod(0o600)
    os.utime(path, ns=(5, path.stat().st_mtime_ns))  # read since: the time of access is nothing
    check_marks(marks)
    check_marks({})
    path.unlink()
    with pytest.raises(IntegrityError, match="has gone"):
        check_marks(marks)
