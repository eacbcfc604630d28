"""IN-S: images in the upper left of a black canvas, on the fly and written."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sptcore.data import FORMATS
from sptcore.data.format import Source
from sptcore.data.images import read_image
from sptcore.data.locate import MANIFEST, MANIFEST_SCHEMA, open_index
from sptcore.data.padding import image_mask, pad_image, pad_index, parse_padding, read_canvas, write_padded
from sptcore.data.rasterize import object_mask, object_ratio
from sptcore.errors import DataError, UsageError
from tests.support.samples import samples_root
from tests.support.tiny import make_tiny

TINY = FORMATS["tiny-imagenet"]


def _index(root: Path, split: str = "train"):
    return TINY.read(Source("tiny", "tiny-imagenet", root), split)


def test_three_quarters_of_the_canvas_are_black():
    image = np.random.default_rng(0).integers(1, 256, (5, 7, 3), dtype=np.uint8)
    canvas = pad_image(image, (2, 2))
    assert canvas.shape == (10, 14, 3)
    assert np.array_equal(canvas[:5, :7], image)
    assert (canvas == 0).all(axis=2).mean() == 0.75
    assert pad_image(image, (3, 1)).shape == (5, 21, 3)


def test_sizes_grow_and_boxes_stay(tmp_path):
    index = _index(make_tiny(tmp_path))
    padded = pad_index(index, (2, 2))
    for record, wide in zip(index.records, padded.records, strict=True):
        assert (wide.width, wide.height) == (128, 128)
        assert wide.instances == record.instances
        assert object_ratio(wide)[0] * 4 * 64 * 64 == object_ratio(record)[0] * 128 * 128
        mask = image_mask(wide, padded.padding)
        assert mask.mean() == 0.25
        assert mask[:64, :64].all()
        assert not (object_mask(wide) & ~mask & 1).any()
    with pytest.raises(ValueError, match="padded already"):
        pad_index(padded, (2, 2))


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_mean_ratio_after_padding_is_that_of_the_facts(split):
    root = samples_root("tiny-imagenet-200")
    known = json.loads((root / "facts.json").read_text())[split]["mean_box_ratio_after_2x2_padding"]
    ratios = [pixels / total for pixels, total in map(object_ratio, pad_index(_index(root, split), (2, 2)).records)]
    assert np.mean(ratios) == pytest.approx(known, abs=1e-5)


def test_padding_on_the_fly_and_written_padding_are_the_same_pixels(tmp_path):
    index = _index(make_tiny(tmp_path / "in"))
    on_the_fly = pad_index(index, (2, 2))
    out = tmp_path / "out"
    keep = [record.image_id for record in index.records[1:]]
    TINY.write_subset(index, keep, out)
    written = write_padded(index, keep, out / TINY.image_folder(index), (2, 2))
    assert [path.suffix for path in written] == [".png"] * 3
    (out / MANIFEST).write_text(
        json.dumps(
            {
                "schema": MANIFEST_SCHEMA,
                "format": "tiny-imagenet",
                "origin": {"root": str(tmp_path / "in")},
                "splits": {"train": {"image_root": "train"}},
                "pad": "2x2",
            }
        )
    )
    padded = open_index(out, "train")
    assert padded.padding == (2, 2)
    assert [record.image_id for record in padded.records] == keep
    for record, before in zip(padded.records, on_the_fly.records[1:], strict=True):
        stored = read_image(padded.image_path(record), size=(128, 128))
        assert np.array_equal(stored, read_canvas(padded, record))
        assert np.array_equal(stored, read_canvas(on_the_fly, before))
        assert record.instances == before.instances or record.instances[0].box_xyxy == before.instances[0].box_xyxy


def test_a_manifest_may_pad_images_that_lie_elsewhere(tmp_path):
    make_tiny(tmp_path / "in")
    index = _index(tmp_path / "in", "val")
    out = tmp_path / "out"
    TINY.write_subset(index, [1], out)
    manifest = {"schema": MANIFEST_SCHEMA, "format": "tiny-imagenet", "origin": {}, "pad": "3x1"}
    manifest["splits"] = {"val": {"image_root": str(index.image_root)}}
    (out / MANIFEST).write_text(json.dumps(manifest))
    padded = open_index(out, "val")
    assert read_canvas(padded, padded.records[0]).shape == (64, 192, 3)


def test_an_image_of_another_size_is_an_error(tmp_path):
    index = pad_index(_index(make_tiny(tmp_path, side=50)), (2, 2))
    with pytest.raises(DataError, match="50x50"):
        read_canvas(index, index.records[0])
    plain = _index(tmp_path)
    with pytest.raises(DataError, match="50x50"):
        read_canvas(plain, plain.records[0])


@pytest.mark.parametrize("text", ["2", "2x", "0x2", "2x9", "axb", "2x2x2", "-1x2", ""])
def test_padding_that_is_none_is_a_usage_error(text):
    with pytest.raises(UsageError, match="no padding"):
        parse_padding(text)


def test_padding_is_columns_then_rows():
    assert parse_padding("2x2") == (2, 2)
    assert parse_padding(" 3X1 ") == (3, 1)


def test_two_images_are_not_written_to_one_file(tmp_path):
    index = _index(make_tiny(tmp_path / "in"))
    first, second = index.records[:2]
    stem = first.file_name.rsplit(".", 1)[0]
    twin = msgspec.structs.replace(second, file_name=f"{stem}.bmp")
    index = msgspec.structs.replace(index, records=(first, twin))
    with pytest.raises(DataError, match="same PNG"):
        write_padded(index, [first.image_id, twin.image_id], tmp_path / "out", (2, 2))
    assert not (tmp_path / "out").exists()
