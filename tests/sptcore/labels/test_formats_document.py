"""docs/formats.md tells the truth: its reader reads, its seal is the seal, its members are the members."""

from __future__ import annotations

import hashlib
import re
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from sptcore.labels.store import LabelStore, schema
from tests.support.label_stores import header, write_store

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
SECTION = TEXT[TEXT.index("## Label store") :].split("\n## ")[0]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    content = write_store(tmp_path / "labels.h5", 12)
    monkeypatch.chdir(tmp_path)
    return content


@pytest.mark.parametrize("row", [0, 3, 5, 11])
@pytest.mark.parametrize("stride", [8, 32])
def test_the_reader_of_the_document(stored, row, stride):
    code = re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)
    assert code is not None
    found: dict = {}
    exec(code[1].replace("row, stride = 0, 8", f"row, stride = {row}, {stride}"), found)
    np.testing.assert_array_equal(found["mask"], stored[row].mask)
    expected = LabelStore("labels.h5").levels(stored[row].image_id).grids[stride]
    np.testing.assert_array_equal(found["grid"], expected)


def test_the_seal_as_described(stored):
    with h5py.File("labels.h5", "r") as file:
        attributes = {name: value.decode() for name, value in file.attrs.items()}
        lines = [
            f"{name}={attributes[name]}\n" for name in sorted(attributes) if name not in ("index_sha256", "complete")
        ]
        digest = hashlib.sha256("".join(lines).encode())
        order = ["id", "height", "width", "object_pixels", "n_objects", "flags", "crc32", "name_offsets", "name_bytes"]
        assert " ".join(order) in SECTION
        paths = [f"image/{name}" for name in order] + ["mask/rle_offsets"]
        paths += [f"levels/s{stride}/offsets" for stride in (8, 16, 32)] + ["report/json"]
        for path in paths:
            digest.update(f"{path} {file[path].dtype.str} {len(file[path])}\n".encode() + file[path][:].tobytes())
        assert digest.hexdigest() == attributes["index_sha256"]
        assert hashlib.sha256(attributes["params_json"].encode()).hexdigest() == attributes["params_sha256"]


def test_the_crc_as_described(stored):
    with h5py.File("labels.h5", "r") as file:
        for row in range(12):
            begin, end = file["mask/rle_offsets"][row : row + 2]
            data = file["mask/rle"][begin:end].tobytes()
            for stride in (8, 16, 32):
                begin, end = file[f"levels/s{stride}/offsets"][row : row + 2]
                data += file[f"levels/s{stride}/bits"][begin:end].tobytes()
            assert zlib.crc32(data) == file["image/crc32"][row]


def test_every_member_is_in_the_document(stored):
    tree = re.search(r"```text\n(.*?)```", SECTION, re.DOTALL)
    assert tree is not None
    for name in [*schema.ATTRIBUTES, *schema.COLUMNS, schema.RLE, schema.REPORT, "levels/s8/bits"]:
        assert name.rpartition("/")[2] in tree[1], name
    for name, dtype in schema.COLUMNS.items():
        plain = {"<i8": "i8", "<i4": "i4", "|u1": "u1", "<u4": "u4"}[dtype]
        assert re.search(rf"\b{name.rpartition('/')[2]}\s+{plain}\b", tree[1]), name
    for flag in schema.Flag:
        assert f"{flag.value} " in tree[1]
    fixed = header().attributes(12)
    for name in ("schema", "schema_version", "label_rule", "grid", "mask_coding", "bit_order"):
        assert f'"{fixed[name]}"' in tree[1]
