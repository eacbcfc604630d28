from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.errors import DataError
from sptcore.viz.pictures import Reading, find_pictures


def write(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (1, 2, 3)).save(path)
    return path


def names(source: object, **reading: object) -> list[str]:
    return [one.path.name for one in find_pictures(str(source), Reading(**reading))]  # type: ignore[arg-type]


def test_an_image_a_folder_and_a_pattern(tmp_path: Path) -> None:
    one, two = write(tmp_path / "b.png"), write(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("x")
    write(tmp_path / "deep" / "c.png")
    assert names(one) == ["b.png"]
    assert names(tmp_path) == ["a.jpg", "b.png"]
    assert names(tmp_path / "*.png") == ["b.png"]
    assert names(f"{tmp_path}/**/*.png") == ["b.png", "c.png"]
    assert find_pictures(str(two), Reading())[0].object_mask() is None


def test_a_name_with_pattern_characters_is_still_a_file(tmp_path: Path) -> None:
    assert names(write(tmp_path / "shot[1].png")) == ["shot[1].png"]


def test_a_data_set_brings_its_objects() -> None:
    pictures = find_pictures("sample", Reading(), limit=3)
    assert len(pictures) == 3
    record = pictures[1].record
    assert record is not None
    mask = pictures[1].object_mask()
    assert mask is not None
    assert mask.shape == pictures[1].pixels.shape[:2]
    assert mask.any()


@pytest.mark.parametrize("source", ["gone.jpg", "gone/*.png", "no-such-set"])
def test_what_is_not_there_is_a_data_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        find_pictures(source, Reading())


def test_what_holds_no_images_is_told_for_what_it_is(tmp_path: Path) -> None:
    empty, other, notes = tmp_path / "empty", tmp_path / "other", tmp_path / "notes.txt"
    empty.mkdir()
    other.mkdir()
    notes.write_text("x")
    (other / "notes.txt").write_text("x")
    for source, said in ((empty, "is empty"), (other, "no data set"), (notes, "neither an image nor an annotation")):
        with pytest.raises(DataError, match=said):
            find_pictures(str(source), Reading())


def test_a_folder_is_shown_whole_and_a_data_set_in_part(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png")
    assert len(find_pictures(str(tmp_path), Reading(), of_data=2)) == 4
    assert len(find_pictures(f"{tmp_path}/*.png", Reading(), of_data=2)) == 4
    assert len(find_pictures(str(tmp_path), Reading(), of_data=2, limit=3)) == 3
    assert len(find_pictures("sample", Reading(), of_data=2)) == 2
    assert len(find_pictures("sample", Reading(), of_data=2, limit=3)) == 3


def test_a_broken_image_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"<html>not an image</html>")
    with pytest.raises(DataError) as caught:
        _ = find_pictures(str(path), Reading())[0].pixels
    assert str(path) in str(caught.value)


def test_a_truncated_image_is_read_only_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError):
        _ = find_pictures(str(path), Reading())[0].pixels
    assert find_pictures(str(path), Reading(allow_truncated=True))[0].pixels.shape == (64, 64, 3)
