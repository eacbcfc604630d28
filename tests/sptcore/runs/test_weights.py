"""Weights files: exact, described, and damage is seen."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch

from sptcore.errors import DataError, EnvironmentFault, IntegrityError
from sptcore.runs import load_weights, save_weights, weights_info

TENSORS = {
    "a.weight": torch.randn(5, 7, generator=torch.Generator().manual_seed(0)),
    "b": torch.arange(4),
    "c": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
}
MODEL = {"task": "detect", "categories": [[0, "café"]]}


def test_a_round_trip_is_bit_equal(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, MODEL, notes={"step": 3})
    tensors, info = load_weights(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert (info.model, info.notes) == (MODEL, {"step": 3})
    assert weights_info(path) == info


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_weights(tmp_path / name, dict(reversed(TENSORS.items())) if name == "two" else TENSORS, MODEL)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_half_stores_floats_in_two_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, MODEL, half=True)
    tensors, _ = load_weights(path)
    assert tensors["a.weight"].dtype == torch.float16
    assert tensors["b"].dtype == torch.int64
    assert torch.allclose(tensors["a.weight"].float(), TENSORS["a.weight"], rtol=1e-3)


def test_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, MODEL)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    generator = random.Random(5)
    for position in [*generator.sample(range(header, len(whole)), 60), *generator.sample(range(8), 8)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            load_weights(path)


def test_truncated_hostile_and_foreign_files_are_integrity_errors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, MODEL)
    whole = path.read_bytes()
    overlapping = {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
    }
    unknown = {"a": {"dtype": "X99", "shape": [4], "data_offsets": [0, 16]}}
    files = [
        b"",
        whole[:50],
        whole[:-3],
        struct.pack("<Q", 200_000_000) + whole[8:],
        struct.pack("<Q", 2**63) + whole[8:],
        packed(overlapping, 24),
        packed(unknown, 16),
        packed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 16),
        b"<html>not found</html>",
    ]
    for content in files:
        path.write_bytes(content)
        with pytest.raises(IntegrityError) as caught:
            load_weights(path)
        assert caught.value.where == str(path)


def packed(header: dict, size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_weights(tmp_path / "absent.safetensors")
    with pytest.raises(EnvironmentFault):
        save_weights(tmp_path / "no" / "folder.safetensors", TENSORS, MODEL)
