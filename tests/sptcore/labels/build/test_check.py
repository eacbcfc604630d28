"""A store of other annotations, another set of images, or with other labels is refused and told apart (faults 61)."""

from __future__ import annotations

from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest

from sptcore.data.locate import open_index
from sptcore.data.records import DatasetIndex
from sptcore.errors import IntegrityError
from sptcore.labels.build import Recipe, Shard, build_labels, check_store, verify_labels
from sptcore.labels.build.recipe import fingerprint
from sptcore.labels.store import LabelStore, LabelWriter
from tests.support.label_stores import coco_set, forge


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, DatasetIndex]:
    folder = tmp_path_factory.mktemp("built")
    index = open_index(coco_set(folder / "set", 12), "train")
    build_labels(index, folder / "labels.h5")
    return folder / "labels.h5", index


def changed(index: DatasetIndex, position: int | None = None, **fields: object) -> DatasetIndex:
    """The index with another record at `position`, or with other fields itself."""
    if position is None:
        return msgspec.structs.replace(index, **fields)
    records = list(index.records)
    records[position] = msgspec.structs.replace(records[position], **fields)
    return msgspec.structs.replace(index, records=tuple(records))


def test_its_own_annotations(built):
    path, index = built
    check_store(path, index)
    check_store(path, index, Recipe())
    assert verify_labels(path, index) == 12
    assert verify_labels(path, index, sample=5) == 5
    assert verify_labels(path, index, sample=500) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: changed(index, 4, image_id=999), "image 999 is not in the store"),
        (lambda index: changed(index, records=index.records[:-1]), "image 34 of the store is not in the annotations"),
        (lambda index: changed(index, records=index.records[::-1]), "the order of the images"),
        (lambda index: changed(index, 7, width=17), r"image 22 is \d+x\d+ in the store, 17x\d+ in the annotations"),
    ],
)
@pytest.mark.parametrize("same_file", [True, False])
def test_the_first_mismatch_is_named(built, change, message, same_file):
    path, index = built
    other = change(index if same_file else changed(index, source_sha256="cd" * 32))
    what = "another set of images" if same_file else r"another annotation file \(SHA-256 \w{12}…, not cdcdcdcdcdcd…\)"
    with pytest.raises(IntegrityError, match=f"{what}; first difference: {message}") as caught:
        check_store(path, other)
    assert caught.value.exit_code == 5
    assert "make-labels" in caught.value.hint


def test_the_same_images_with_other_annotations(built, tmp_path):
    path, index = built
    with pytest.raises(IntegrityError, match=r"another annotation file.*so their annotations must differ"):
        check_store(path, changed(index, source_sha256="cd" * 32))


def test_a_reader_without_a_fingerprint_has_its_records_hashed(built, tmp_path):
    index = changed(built[1], source_sha256="")
    build_labels(index, tmp_path / "labels.h5")
    check_store(tmp_path / "labels.h5", index)
    assert fingerprint(index)[0] != fingerprint(changed(index, 3, file_name="other.png"))[0]
    with pytest.raises(IntegrityError, match="another annotation file"):
        check_store(tmp_path / "labels.h5", changed(index, 3, file_name="other.png"))


def test_other_settings(built):
    path, index = built
    with pytest.raises(IntegrityError, match=r"made with source = 'auto', not 'boxes'"):
        check_store(path, index, Recipe(source="boxes"))
    with pytest.raises(IntegrityError, match=r"made with strides = \[8, 16, 32\], not \[4, 8\]"):
        check_store(path, index, Recipe(strides=(4, 8)))


def test_a_shard_is_not_the_whole(built, tmp_path):
    build_labels(built[1], tmp_path / "shard.h5", shard=Shard(1, 2))
    with pytest.raises(IntegrityError, match="this is shard 1/2 of a store, not the whole") as caught:
        check_store(tmp_path / "shard.h5", built[1])
    assert "--merge" in caught.value.hint


# -- labels that are not what the annotations say -------------------------------------------------------------


def rewritten(built: tuple[Path, DatasetIndex], out: Path, position: int, change) -> None:
    """A sound store in which one image's entry was changed before it was written."""
    path, index = built
    with LabelStore(path) as store, LabelWriter(out, store.header, store.report_bytes) as writer:
        for number, record in enumerate(index.records):
            entry = Recipe().entry(record)
            writer.add(change(entry) if number == position else entry)


def with_mask(entry, mask: np.ndarray):
    return type(entry)(entry.image_id, entry.file_name, mask, entry.object_pixels, entry.n_objects, entry.flags)


def with_fields(entry, **fields: object):
    return type(entry)(**(vars(entry) | fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: with_mask(entry, 1 - entry.mask), "the mask differs in [0-9]+ pixels"),
        (lambda entry: with_fields(entry, object_pixels=entry.object_pixels + 1), "object_pixels is"),
        (lambda entry: with_fields(entry, n_objects=77), "n_objects is 77, derived"),
        (lambda entry: with_fields(entry, file_name="x.png"), "file_name is 'x.png', derived '0005.png'"),
    ],
)
def test_any_other_content_is_found(built, tmp_path, change, message):
    out = tmp_path / "labels.h5"
    rewritten(built, out, 5, change)
    check_store(out, built[1])  # sound, and of this source
    with pytest.raises(
        IntegrityError, match=rf"do not follow from the annotations: image 16 \('0005.png'\): {message}"
    ):
        verify_labels(out, built[1])


def test_a_level_that_is_not_its_masks(built, tmp_path):
    """Wrong bits under a CRC and a seal that were made to fit."""
    import zlib

    def change(file: h5py.File) -> None:
        bits, start = file["levels/s16/bits"], int(file["levels/s16/offsets"][0])
        bits[start] ^= 0x80
        row_bytes = [file["mask/rle"][: file["mask/rle_offsets"][1]].tobytes()]
        row_bytes += [file[f"levels/s{k}/bits"][: file[f"levels/s{k}/offsets"][1]].tobytes() for k in (8, 16, 32)]
        crc = 0
        for piece in row_bytes:
            crc = zlib.crc32(piece, crc)
        file["image/crc32"][0] = crc

    forge(built[0], tmp_path / "labels.h5", change)
    assert LabelStore(tmp_path / "labels.h5").verify() == 12
    with pytest.raises(IntegrityError, match=r"image 1 \('0000.png'\): level 16 differs in 1 cells"):
        verify_labels(tmp_path / "labels.h5", built[1])


def test_all_differences_are_counted(built, tmp_path):
    other = changed(built[1], 2, instances=())
    other = changed(other, 3, instances=())
    differing = sum(bool(built[1].records[k].instances) for k in (2, 3))
    pattern = rf"\(and {differing - 1} other images\)" if differing > 1 else "image"
    with pytest.raises(IntegrityError, match=pattern):
        verify_labels(built[0], other)
