"""Faults of the file: each stops with one line that names the place. Numbers in comments are fault-table rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sptcore.data.coco.scan import scan
from sptcore.errors import DataError
from tests.support.miniatures import coco_document, write_coco_file


def fault(tmp_path: Path, content) -> str:
    path = write_coco_file(tmp_path / "instances_train2017.json", content)
    with pytest.raises(DataError) as caught:
        scan(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def text() -> bytes:
    return json.dumps(coco_document()).encode()


def changed(part: str, number: int, **values) -> dict:
    document = coco_document()
    document[part][number].update(values)
    return document


def without(part: str, number: int, key: str) -> dict:
    document = coco_document()
    del document[part][number][key]
    return document


def test_a_sound_file_is_scanned(tmp_path: Path) -> None:
    found = scan(write_coco_file(tmp_path / "a.json", coco_document()))
    assert [image.id for image in found.images] == [7, 2, 5]
    assert found.owner.tolist() == [0, 1, 0, 0]
    assert [(category.category_id, category.name) for category in found.categories] == [(0, "cup"), (3, "café ☕")]
    assert not found.dropped
    data = found.source.data
    starts, ends = found.annotation_spans.starts.tolist(), found.annotation_spans.ends.tolist()
    entries = [json.loads(data[start:end]) for start, end in zip(starts, ends, strict=True)]
    assert entries == coco_document()["annotations"]


def test_positions_hold_for_uneven_separators(tmp_path: Path) -> None:
    entries = [json.dumps(entry) for entry in coco_document()["annotations"]]
    loose = entries[0] + ",\n  " + entries[1] + " ,\t" + entries[2] + ",   \r\n" + entries[3]
    document = coco_document() | {"annotations": "HERE"}
    content = json.dumps(document).replace('"HERE"', f"[ {loose}\n ]").encode()
    found = scan(write_coco_file(tmp_path / "a.json", content))
    spans = zip(found.annotation_spans.starts.tolist(), found.annotation_spans.ends.tolist(), strict=True)
    assert [found.source.data[start:end].decode() for start, end in spans] == entries


def test_truncated_anywhere_is_an_error_with_offset(tmp_path: Path) -> None:  # 1
    whole = text()
    assert "byte 0" in fault(tmp_path, b"")
    for length in [1, 2, 10, *range(50, len(whole) - 1, 37), len(whole) - 1]:
        named = re.search(r"byte (\d+)", fault(tmp_path, whole[:length]))
        assert named
        assert length - 12 <= int(named[1]) <= length


def test_byte_order_mark_is_accepted_and_noted(tmp_path: Path) -> None:  # 2
    found = scan(write_coco_file(tmp_path / "a.json", b"\xef\xbb\xbf" + text()))
    assert len(found.images) == 3
    assert "byte order mark" in found.notes[0]


def test_invalid_utf8_is_an_error_with_offset(tmp_path: Path) -> None:  # 3
    content = text().replace(b"miniature", b"mini\xffture")
    assert f"invalid UTF-8 at byte {content.index(255)}" in fault(tmp_path, content)


def test_invalid_utf8_is_found_across_the_pieces_it_is_read_in(tmp_path: Path) -> None:
    filler = "é" * (1 << 19)
    content = text().replace(b"miniature", filler.encode() + b"\xc3(")
    assert f"invalid UTF-8 at byte {content.index(bytes([0xC3, 0x28]))}" in fault(tmp_path, content)


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_json_does_not_have_are_errors_with_offset(tmp_path: Path, literal: bytes) -> None:  # 4
    content = text().replace(b"100.0", literal)
    assert f"at byte {content.index(literal) + (literal[:1] == b'-')}" in fault(tmp_path, content)


@pytest.mark.parametrize("place", ["header", "segmentation"])
def test_deep_nesting_is_an_error(tmp_path: Path, place: str) -> None:  # 6
    deep = b"[" * 100_000 + b"]" * 100_000
    old = b'"miniature"' if place == "header" else b"[[10, 5, 20, 5, 20, 15, 10, 15]]"
    content = text().replace(old, deep)
    assert content != text()
    assert "nested too deeply" in fault(tmp_path, content)


@pytest.mark.parametrize("value", [2**70, -1, "seven", 1.0, None, True, [1]])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("images", "id"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("categories", "id"),
    ],
)
def test_a_wrong_identifier_is_an_error_with_its_path(tmp_path: Path, part: str, key: str, value) -> None:  # 7
    assert f"{part}[1].{key}: " in fault(tmp_path, changed(part, 1, **{key: value}))


@pytest.mark.parametrize(("part", "key"), [("images", "id"), ("annotations", "image_id"), ("categories", "id")])
def test_a_number_beyond_all_types_is_an_error_with_its_path(tmp_path: Path, part: str, key: str) -> None:  # 7
    content = json.dumps(changed(part, 1, **{key: "far"})).replace('"far"', "1e400").encode()
    assert f"{part}[1].{key}: Number out of range" in fault(tmp_path, content)


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_missing_key_is_named(tmp_path: Path, part: str) -> None:  # 8
    document = coco_document()
    del document[part]
    assert f"no `{part}`" in fault(tmp_path, document)
    assert f"{part}: " in fault(tmp_path, coco_document() | {part: {"not": "a list"}})
    assert f"{part}[0]: " in fault(tmp_path, coco_document() | {part: [5]})


@pytest.mark.parametrize("content", [[1, 2], 5, "text", None])
def test_another_top_level_is_an_error(tmp_path: Path, content) -> None:  # 8
    assert "the top level is no object" in fault(tmp_path, json.dumps(content).encode())


@pytest.mark.parametrize("content", [[{"name": "a.jpg", "labels": []}], {"frames": [], "config": {}}])
def test_scalabel_is_recognised(tmp_path: Path, content) -> None:  # 9
    path = write_coco_file(tmp_path / "det_train.json", content)
    with pytest.raises(DataError, match="looks like Scalabel") as caught:
        scan(path)
    assert "make-sparse bdd" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "content",
    [
        b'{"images": [], "annotations": [], "images": [], "categories": []}',
        b'{"images": [], "annotations": [], "categories": [], "annotations" :[]}',
        b'{"info": 1, "images": [], "info": 2, "annotations": [], "categories": []}',
        b'{"images": [], "annotations": [], "categories": [], "x": "{", "x": "}"}',
    ],
)
def test_a_key_that_occurs_twice_is_an_error(tmp_path: Path, content: bytes) -> None:  # 10
    assert "twice" in fault(tmp_path, content)


def test_a_key_twice_in_an_entry_means_the_last_one(tmp_path: Path) -> None:  # 10
    content = text().replace(b'"id": 7', b'"id": 9, "id": 7', 1)
    assert [image.id for image in scan(write_coco_file(tmp_path / "a.json", content)).images] == [7, 2, 5]


def test_escaped_keys_and_braces_in_text_are_no_duplicates(tmp_path: Path) -> None:
    content = text().replace(b'"own_key"', b'"own\\"key\\\\"').replace(b'"x"]', b'"}, {\\"images\\": ["]')
    assert len(scan(write_coco_file(tmp_path / "a.json", content)).images) == 3


def test_other_kinds_of_file_are_named(tmp_path: Path) -> None:  # 11
    import gzip

    assert "gzip" in fault(tmp_path, gzip.compress(text()))
    assert "HTML" in fault(tmp_path, b"\n<!DOCTYPE html><html>404</html>")
    assert "byte 0" in fault(tmp_path, b"PK\x03\x04")


def test_a_repeated_image_id_names_both_places(tmp_path: Path) -> None:  # 12
    message = fault(tmp_path, changed("images", 2, id=7))
    assert "image id 7 occurs twice" in message
    assert "images[0] and images[2]" in message


def test_a_repeated_category_id_is_an_error_a_name_is_noted(tmp_path: Path) -> None:  # 17
    assert "category id 0 occurs twice" in fault(tmp_path, changed("categories", 1, id=0))
    found = scan(write_coco_file(tmp_path / "a.json", changed("categories", 1, name="cup")))
    assert "'cup'" in found.notes[0]


@pytest.mark.parametrize("value", [0, -3, 40.0, "40", None, 10**6, 2**70])
@pytest.mark.parametrize("key", ["width", "height"])
def test_a_wrong_size_names_the_image(tmp_path: Path, key: str, value) -> None:  # 30
    message = fault(tmp_path, changed("images", 0, **{key: value}))
    assert f"images[0].{key}: " in message
    assert "seven.png" in message


@pytest.mark.parametrize("key", ["id", "width", "height", "file_name"])
def test_a_missing_field_of_an_image_is_named(tmp_path: Path, key: str) -> None:  # 30
    message = fault(tmp_path, without("images", 1, key))
    assert f"`{key}`" in message
    assert "images[1]" in message


def test_too_many_pixels_are_an_error(tmp_path: Path) -> None:
    assert "100 megapixels" in fault(tmp_path, changed("images", 0, width=60_000, height=60_000))


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "C:\\x", "c:x", "a\0b", "..\\..\\x", "", "a/../../b", ".."])
def test_names_that_lead_out_of_the_folder_are_errors(tmp_path: Path, name: str) -> None:  # 37
    message = fault(tmp_path, changed("images", 0, file_name=name))
    assert "images[0]" in message


@pytest.mark.parametrize(
    "name",
    [
        "a b.jpg",
        "\u00e9.jpg",
        "e\u0301.jpg",
        "🐈.jpg",
        "new\nline.jpg",
        "x" * 251 + ".jpg",
        "-r.jpg",
        "[red]x[/red].jpg",
    ],
)
def test_odd_names_are_fine(tmp_path: Path, name: str) -> None:  # 39
    found = scan(write_coco_file(tmp_path / "a.json", changed("images", 0, file_name=name)))
    assert found.images[0].file_name == name


def test_colliding_names_are_noted(tmp_path: Path) -> None:  # 40
    found = scan(write_coco_file(tmp_path / "a.json", changed("images", 2, file_name="SEVEN.png")))
    assert "upper and lower case" in found.notes[0]
    found = scan(write_coco_file(tmp_path / "b.json", changed("images", 2, file_name="seven.png")))
    assert "share their file name" in found.notes[0]


def test_a_folder_a_pipe_and_a_missing_file_are_errors(tmp_path: Path) -> None:  # 41
    import os

    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name, words in [("folder.json", "regular"), ("pipe.json", "regular"), ("none.json", "missing")]:
        with pytest.raises(DataError, match=words):
            scan(tmp_path / name)


def test_entries_that_belong_nowhere_are_dropped(tmp_path: Path) -> None:  # 13, 15, 16
    document = coco_document()
    document["annotations"][1]["id"] = 11
    document["annotations"][2]["image_id"] = 99
    document["annotations"][3]["category_id"] = 1
    path = write_coco_file(tmp_path / "a.json", document)
    found = scan(path)
    assert [(fault.cause, fault.where, fault.entry) for fault in found.dropped] == [
        ("repeated annotation id", "annotations[1].id", 1),
        ("unknown image", "annotations[2].image_id", 2),
        ("unknown category", "annotations[3].category_id", 3),
    ]
    assert found.owner.tolist() == [0, -1, -1, -1]
    with pytest.raises(DataError, match=r"annotations\[1\].id: repeated annotation id"):
        scan(path, strict=True)


def test_empty_arrays_are_a_valid_set(tmp_path: Path) -> None:  # 47
    found = scan(write_coco_file(tmp_path / "a.json", coco_document() | {"images": [], "annotations": []}))
    assert found.images == []
    lost = scan(write_coco_file(tmp_path / "b.json", coco_document() | {"images": []}))
    assert {fault.cause for fault in lost.dropped} == {"unknown image"}


def test_the_fingerprint_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    found = scan(write_coco_file(tmp_path / "a.json", coco_document()))
    assert found.source.sha256 == hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()
