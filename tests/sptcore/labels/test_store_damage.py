"""Damaged, truncated and hostile stores are refused with exit code 5, and never give wrong labels (faults 59, 60)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from sptcore.errors import IntegrityError
from sptcore.labels.store import LabelStore, schema
from tests.support.label_stores import everything, forge, write_store


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "labels.h5"
    write_store(path, 12)
    return path, path.read_bytes(), everything(LabelStore(path))


def read_all(path: Path):
    """Everything in the store, checked, or None where it is refused; any other exception is a failure."""
    try:
        with LabelStore(path) as store:
            content = everything(store)
            store.verify()
    except IntegrityError as error:
        return None if (error.exit_code, error.where) == (5, str(path)) else f"an error without its file: {error}"
    return content


def test_truncated_at_any_length(stored, tmp_path):
    _, data, _ = stored
    path = tmp_path / "short.h5"
    rng = np.random.default_rng(1)
    for length in {0, 1, 8, 9, 47, 48, len(data) - 1, *rng.integers(0, len(data), 60).tolist()}:
        path.write_bytes(data[:length])
        assert read_all(path) is None, f"{length} of {len(data)} bytes were accepted"


def test_any_bit_flipped_is_refused_or_changes_nothing(stored, tmp_path):
    _, data, expected = stored
    path = tmp_path / "flipped.h5"
    rng = np.random.default_rng(2)
    refused = 0
    for position, bit in zip(rng.integers(0, len(data), 400).tolist(), rng.integers(0, 8, 400).tolist(), strict=True):
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        content = read_all(path)
        assert content in (None, expected), f"bit {bit} of byte {position} went unnoticed"
        refused += content is None
    assert refused > 300


@pytest.mark.parametrize("name", ["mask/rle", "levels/s8/bits", "levels/s32/bits"])
def test_damage_is_named_by_data_set_and_image(stored, tmp_path, name):
    path = tmp_path / "labels.h5"
    path.write_bytes(stored[1])
    with h5py.File(path, "r+") as file:
        image_id = int(file["image/id"][4])
        offsets = file["mask/rle_offsets" if name == "mask/rle" else name.replace("bits", "offsets")]
        file[name][offsets[4]] ^= 1
    store = LabelStore(path)
    for look in (store.levels, store.mask):
        with pytest.raises(IntegrityError, match=rf"{name} at image {image_id} \("):
            look(image_id)
    with pytest.raises(IntegrityError, match=rf"{name} at image {image_id} \("):
        store.verify()
    others = [other for other in store.image_ids.tolist() if other != image_id]
    assert all(store.levels(other) for other in others)


def attribute(name: str, value: str):
    def change(file: h5py.File) -> None:
        file.attrs[name] = np.bytes_(value.encode())

    return change


def replaced(name: str, **settings):
    """The data set with other storage or type, its values kept where they fit."""

    def change(file: h5py.File) -> None:
        values = file[name][:]
        del file[name]
        file.create_dataset(name, data=settings.pop("data", values), **settings)

    return change


def entry(name: str, position: int, value: int):
    def change(file: h5py.File) -> None:
        file[name][position] = value

    return change


def without(name: str):
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def linked(name: str, link: object):
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return change


def huge(file: h5py.File) -> None:
    del file["mask/rle"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((2**60,))
    h5py.h5d.create(file.id, b"mask/rle", h5py.h5t.STD_U8LE, space, plan)


def outside(file: h5py.File) -> None:
    values = file["mask/rle"][:]
    del file["mask/rle"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_external(b"/etc/passwd", 0, len(values))
    h5py.h5d.create(file.id, b"mask/rle", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((len(values),)), plan)


def virtual(file: h5py.File) -> None:
    length = file["mask/rle"].shape[0]
    del file["mask/rle"]
    layout = h5py.VirtualLayout(shape=(length,), dtype="u1")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(length,))
    file.create_virtual_dataset("mask/rle", layout)


def text_attribute(file: h5py.File) -> None:
    file.attrs["ratio_from"] = "variable length"


HOSTILE = {
    "newer major": (attribute("schema_version", "2.0"), "schema version is 2.0; this spt reads 1.x"),
    "older major": (attribute("schema_version", "0.9"), "schema version is 0.9"),
    "version of no sense": (attribute("schema_version", "1.x"), "make no sense"),
    "other schema": (attribute("schema", "other"), "schema is 'other'"),
    "other label rule": (attribute("label_rule", "coverage"), "label_rule"),
    "strides that are none": (attribute("strides", "8,12"), "make no sense"),
    "strides that are not there": (attribute("strides", "4,8,16,32"), "levels/s4"),
    "params that are no JSON": (attribute("params_json", "{"), "make no sense"),
    "deep params": (attribute("params_json", "[" * 50_000), "make no sense|damaged"),
    "part that is none": (attribute("part", "3/2"), "make no sense"),
    "count that is another": (attribute("n_images", "11"), "expected 11"),
    "count beyond all": (attribute("n_images", str(2**70)), "expected 1180591620717411303424"),
    "variable-length attribute": (text_attribute, "ratio_from"),
    "no attribute": (lambda file: file.attrs.__delitem__("crowd"), "'crowd' is missing"),
    "unfinished": (lambda file: file.attrs.__delitem__("complete"), "unfinished"),
    "no data set": (without("levels/s16/bits"), "levels/s16/bits"),
    "no group": (without("levels"), "levels"),
    "group for a data set": (lambda file: (without("mask/rle")(file), file.create_group("mask/rle")), "not a data set"),
    "more than there should be": (lambda file: file.create_group("extra"), "no part of the schema"),
    "float ids": (replaced("image/id", dtype="<f8"), "type <i8"),
    "big-endian heights": (replaced("image/height", dtype=">i4"), "type <i4"),
    "signed bits": (replaced("levels/s8/bits", dtype="i1"), "type |u1"),
    "two dimensions": (replaced("image/flags", data=np.zeros((12, 1), np.uint8)), "one dimension"),
    "short column": (replaced("image/flags", data=np.zeros(11, np.uint8)), "11 entries, expected 12"),
    "chunked": (replaced("mask/rle", chunks=(10,)), "not contiguous"),
    "compressed": (replaced("mask/rle", compression="gzip"), "not contiguous"),
    "offsets that fall": (entry("mask/rle_offsets", 3, 0), "rle_offsets does not run"),
    "offsets beyond the end": (entry("mask/rle_offsets", 12, 10**9), "rle_offsets does not run"),
    "negative offsets": (entry("image/name_offsets", 0, -5), "name_offsets does not run"),
    "offsets of another size": (entry("levels/s8/offsets", 1, 3), "does not fit the sizes"),
    "an image twice": (lambda file: entry("image/id", 3, int(file["image/id"][4]))(file), "an image twice"),
    "no height": (entry("image/height", 2, 0), "image/height has a side"),
    "enormous width": (entry("image/width", 2, 2**31 - 1), "image/width has a side"),
    "soft link": (linked("mask/rle", h5py.SoftLink("/levels/s8/bits")), "a link to somewhere else"),
    "external link": (linked("mask/rle", h5py.ExternalLink("/etc/passwd", "/x")), "a link to somewhere else"),
    "external group": (linked("mask", h5py.ExternalLink("other.h5", "/mask")), "a link to somewhere else"),
    "shape of 2^60": (huge, "claims 1152921504606846976 bytes"),
    "external storage": (outside, "not contiguous inside the file"),
    "virtual": (virtual, "not contiguous inside the file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_stores(stored, tmp_path, case):
    change, message = HOSTILE[case]
    path = tmp_path / "hostile.h5"
    forge(stored[0], path, change)
    with pytest.raises(IntegrityError, match=message) as caught:
        read_and_verify(path)
    assert caught.value.exit_code == 5
    assert caught.value.where.startswith(str(path))


def read_and_verify(path: Path) -> None:
    with LabelStore(path) as store:
        store.verify()


def test_the_forgery_itself_is_accepted_when_nothing_is_changed(stored, tmp_path):
    """Control of the test above: it is the change that is refused, not the copy."""
    forge(stored[0], tmp_path / "copy.h5", lambda file: None)
    assert everything(LabelStore(tmp_path / "copy.h5")) == stored[2]


@pytest.mark.parametrize("name", ["source_sha256", "tool_version", "crowd"])
def test_attributes_are_sealed(stored, tmp_path, name):
    forge(stored[0], tmp_path / "hostile.h5", attribute(name, "x"), reseal=False)
    with pytest.raises(IntegrityError, match="index_sha256"):
        len(LabelStore(tmp_path / "hostile.h5"))


def test_a_resealed_mask_that_is_none_is_refused(stored, tmp_path):
    """The CRC can be forged as well; pycocotools would return memory it never wrote here."""
    import zlib

    def change(file: h5py.File) -> None:
        stop, strides = file["mask/rle_offsets"][1], (8, 16, 32)
        file["mask/rle"][0:stop] = np.frombuffer(b"1" * int(stop), np.uint8)
        crc = zlib.crc32(file["mask/rle"][0:stop].tobytes())
        for stride in strides:
            crc = zlib.crc32(file[schema.bits_name(stride)][: file[schema.offsets_name(stride)][1]].tobytes(), crc)
        file["image/crc32"][0] = crc
        file["image/height"][0] = file["image/width"][0] = 7

    forge(stored[0], tmp_path / "hostile.h5", change)
    store = LabelStore(tmp_path / "hostile.h5")
    with pytest.raises(IntegrityError, match="no mask"):
        store.mask(int(store.image_ids[0]))


def test_a_later_minor_version_may_have_more_in_it(stored, tmp_path, monkeypatch):
    def change(file: h5py.File) -> None:
        file.attrs["schema_version"] = np.bytes_(b"1.9")
        file.attrs["added_in_1_9"] = np.bytes_(b"x")
        file.create_dataset("image/added", data=np.arange(12))

    path = tmp_path / "later.h5"
    forge(stored[0], path, change)
    assert everything(LabelStore(path))[2:] == stored[2][2:]
    monkeypatch.setattr(schema, "VERSION", (1, 9))  # and this one reads what 1.0 wrote
    assert everything(LabelStore(stored[0])) == stored[2]


# -- full disks -----------------------------------------------------------------------------------------------

FILL = """
import resource, sys
from pathlib import Path
from sptcore.errors import EnvironmentFault
from sptcore.labels.store import writer
from tests.support.label_stores import write_store

path, size, direct = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "direct"
if direct:
    writer.IN_MEMORY_LIMIT = 0
before, hard = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
limits = [*range(max(size - 65536, 0), size, 4096), *range(0, size, max(size // 10, 1)), size - 1]
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        write_store(path, 40, seed=1)
    except EnvironmentFault as fault:
        assert str(path) in str(fault), fault
    else:
        sys.exit(f"written with room for {limit} of {size} bytes only")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_bytes() == before, limit
    assert [file.name for file in path.parent.iterdir()] == [path.name], limit
write_store(path, 40, seed=1)
print(len(limits))
"""


@pytest.mark.parametrize("way", ["memory", "direct"])
def test_no_room_at_any_point_leaves_the_earlier_file(tmp_path, way):
    """A limit on the file's size stands in for the full disk: same failing write, no administrator needed."""
    write_store(tmp_path / "new.h5", 40, seed=1)
    size = (tmp_path / "new.h5").stat().st_size
    (tmp_path / "new.h5").unlink()
    path = tmp_path / "labels.h5"
    write_store(path, 3)
    ran = subprocess.run(
        [sys.executable, "-c", FILL, path, str(size), way], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 15
    assert len(LabelStore(path)) == 40
