"""A store gives back what went in, from any process, in the same bytes every time (faults 63, 72)."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from sptcore.errors import DataError, EnvironmentFault, IntegrityError
from sptcore.files import TEMP_MARK
from sptcore.labels.pyramid import levels
from sptcore.labels.store import LabelEntry, LabelStore, LabelWriter, merge_stores, writer
from tests.support.label_stores import entries, everything, header, write_store


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "labels.h5"
    return path, write_store(path, 40)


def test_what_goes_in_comes_out(stored):
    path, content = stored
    store = LabelStore(path)
    assert store.image_ids.tolist() == [entry.image_id for entry in content]
    assert len(store) == 40
    assert store.header == header()
    assert store.report == {"dropped": {"empty box": 2}}
    for entry in content:
        image = store.image(entry.image_id)
        assert (image.file_name, image.object_pixels) == (entry.file_name, entry.object_pixels)
        assert (image.n_objects, image.flags) == (entry.n_objects, entry.flags)
        assert (image.height, image.width) == entry.mask.shape
        np.testing.assert_array_equal(store.mask(entry.image_id), entry.mask)
        pyramid = store.levels(entry.image_id)
        assert pyramid.resolution == entry.mask.shape[::-1]
        for stride, grid in levels(entry.mask, (8, 16, 32)).items():
            np.testing.assert_array_equal(pyramid.grids[stride], grid)
    assert store.verify() == 40


def test_strides_that_are_not_stored_come_from_the_mask(stored):
    path, content = stored
    store = LabelStore(path)
    for entry in content[:12]:
        for wanted in ((4,), (1, 8), (64,), (32, 16), (8, 16, 32, 64)):
            grids = store.levels(entry.image_id, wanted).grids
            assert list(grids) == sorted(wanted)
            for stride, grid in levels(entry.mask, wanted).items():
                np.testing.assert_array_equal(grids[stride], grid)
    with pytest.raises(ValueError, match="powers of two"):
        store.levels(content[0].image_id, (12,))


def test_unknown_images(stored):
    store = LabelStore(stored[0])
    known = {entry.image_id for entry in stored[1]}
    stranger = next(n for n in range(1000) if n not in known)
    assert stranger not in store
    assert next(iter(known)) in store
    assert "text" not in store
    for question in (store.mask, store.levels, store.image):
        with pytest.raises(KeyError, match=str(stranger)):
            question(stranger)


def test_an_empty_store(tmp_path):
    write_store(tmp_path / "none.h5", 0)
    store = LabelStore(tmp_path / "none.h5")
    assert (len(store), store.verify(), 5 in store) == (0, 0, False)


def test_same_content_same_bytes_at_another_time(stored, tmp_path):
    again = tmp_path / "again.h5"
    written = stored[0].stat().st_mtime
    while time.time() < int(written) + 1.1:  # time stamps in HDF5 have whole seconds
        time.sleep(0.05)
    write_store(again, 40)
    assert again.read_bytes() == stored[0].read_bytes()


def test_written_to_disk_directly_it_is_the_same_bytes(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "IN_MEMORY_LIMIT", 0)
    write_store(tmp_path / "disk.h5", 40)
    assert (tmp_path / "disk.h5").read_bytes() == stored[0].read_bytes()


def test_only_plain_integers_and_byte_strings_are_in_the_file(stored):
    with h5py.File(stored[0], "r") as file:
        assert all(isinstance(value, np.bytes_) for value in file.attrs.values())
        names = []

        def look(name: str, node: object) -> None:
            if isinstance(node, h5py.Dataset):
                names.append(name)
                assert node.dtype.kind in "iu"
                assert (node.chunks, node.compression, node.fletcher32) == (None, None, False)

        file.visititems(look)
    assert sorted(names) == sorted(
        ["image/id", "image/height", "image/width", "image/object_pixels", "image/n_objects", "image/flags"]
        + ["image/crc32", "image/name_offsets", "image/name_bytes", "mask/rle", "mask/rle_offsets", "report/json"]
        + [f"levels/s{stride}/{part}" for stride in (8, 16, 32) for part in ("bits", "offsets")]
    )


def test_an_id_twice_is_refused(tmp_path):
    made = LabelWriter(tmp_path / "x.h5", header())
    made.add(LabelEntry(1, "a", np.ones((2, 2), np.uint8), 4, 1))
    with pytest.raises(ValueError, match="already"):
        made.add(LabelEntry(1, "b", np.ones((2, 2), np.uint8), 4, 1))
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "labels.h5"
    write_store(path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), LabelWriter(path, header()):
        raise RuntimeError
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["labels.h5"]


# -- shards ---------------------------------------------------------------------------------------------------


def write_shards(folder: Path, total: int, count: int = 20) -> list[Path]:
    content, paths = list(entries(count)), []
    for number in range(total):
        path = folder / f"part{number}.h5"
        with LabelWriter(path, header(part=f"{number + 1}/{total}"), report=b'{"dropped":{"empty box":2}}') as made:
            for entry in content[number * count // total : (number + 1) * count // total]:
                made.add(entry)
        paths.append(path)
    return paths


@pytest.mark.parametrize("total", [1, 2, 5])
def test_merged_shards_are_the_bytes_of_one_build(tmp_path, total):
    write_store(tmp_path / "whole.h5", 20)
    paths = write_shards(tmp_path, total)
    merge_stores(paths[::-1], tmp_path / "merged.h5")
    assert (tmp_path / "merged.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_shards_that_do_not_belong_together(tmp_path):
    first, second, third = write_shards(tmp_path, 3)
    for chosen in ([first, second], [first, second, second], [second, third, first, first]):
        with pytest.raises(IntegrityError, match="shards"):
            merge_stores(chosen, tmp_path / "merged.h5")
    write_store(third, 4, strides=(8, 16), part="3/3")
    with pytest.raises(IntegrityError, match="same build"):
        merge_stores([first, second, third], tmp_path / "merged.h5")
    write_store(second, 20, part="2/2")
    write_store(first, 20, part="1/2")
    with pytest.raises(DataError, match="twice"):
        merge_stores([first, second], tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


# -- processes ------------------------------------------------------------------------------------------------


def _answer(store: LabelStore, connection) -> None:
    connection.send(everything(store))
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("opened", [True, False])
def test_workers_see_the_same_bytes(stored, method, opened):
    context = multiprocessing.get_context(method)
    store, expected = LabelStore(stored[0]), everything(LabelStore(stored[0]))
    if opened:
        assert len(store) == 40
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    workers = [context.Process(target=_answer, args=(store, sender)) for _, sender in pipes]
    for worker in workers:
        worker.start()
    assert everything(store) == expected
    for receiver, _ in pipes:
        assert receiver.recv() == expected
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def test_threads_share_a_store(stored):
    store, expected, answers = LabelStore(stored[0]), everything(LabelStore(stored[0])), []
    threads = [threading.Thread(target=lambda: answers.append(everything(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 4


def test_pickling_before_and_after_opening(stored):
    store = LabelStore(stored[0])
    expected = everything(pickle.loads(pickle.dumps(store)))
    assert len(pickle.dumps(store)) < 1000
    assert everything(pickle.loads(pickle.dumps(store))) == expected == everything(store)


def test_a_store_replaced_after_pickling_is_noticed(tmp_path):
    path = tmp_path / "labels.h5"
    write_store(path, 5)
    store = LabelStore(path)
    expected, frozen = everything(store), pickle.dumps(store)
    write_store(path, 6)
    assert everything(store) == expected  # still the file it opened
    with pytest.raises(IntegrityError, match="replaced"):
        len(pickle.loads(frozen))


def test_closing_is_not_the_end(stored):
    with LabelStore(stored[0]) as store:
        expected = everything(store)
        handles = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    if handles is not None:
        assert len(os.listdir("/proc/self/fd")) == handles - 1
    assert everything(store) == expected


# -- what stands in the way -----------------------------------------------------------------------------------


def test_no_store_there(tmp_path):
    store = LabelStore(tmp_path / "none.h5")  # says nothing until it is asked
    with pytest.raises(DataError, match="no label store"):
        len(store)


@pytest.mark.parametrize("kind", ["folder", "fifo", "text", "empty"])
def test_things_that_are_no_hdf5_file(tmp_path, kind):
    path = tmp_path / "labels.h5"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"" if kind == "empty" else b"id,mask\n" * 100)
    with pytest.raises(IntegrityError, match=r"no regular file|no HDF5 file"):
        len(LabelStore(path))


def test_a_folder_that_is_not_there_or_a_failing_disk(tmp_path, monkeypatch):
    with pytest.raises(EnvironmentFault, match="cannot write"):
        write_store(tmp_path / "no" / "labels.h5")
    path = tmp_path / "labels.h5"
    write_store(path, 3)
    before = path.read_bytes()

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(EnvironmentFault, match="Input/output error"):
        write_store(path, 4)
    assert path.read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(TEMP_MARK)]


def test_bytes_that_do_not_come_back_are_not_published(tmp_path, monkeypatch):
    path = tmp_path / "labels.h5"
    write_store(path, 3)
    before = path.read_bytes()
    honest = writer._write_through_memory

    def lossy(temp: Path, *rest: object) -> None:
        honest(temp, *rest)
        with temp.open("r+b") as stream:
            stream.seek(-40, os.SEEK_END)
            stream.write(b"\xff" * 8)

    monkeypatch.setattr(writer, "_write_through_memory", lossy)
    with pytest.raises(IntegrityError):
        write_store(path, 4)
    assert path.read_bytes() == before
