from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sptcore.runs.demo import DEMO_WEIGHTS
from sptcore.viz.pictures import Reading, find_pictures
from tests.support.cli import spt
from tests.support.training import mini_data
from tests.support.weights import nano_weights


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_pictures_and_results_land_in_the_current_folder() -> None:
    ran = spt("predict", "sample", "--limit", "2", "--weights", DEMO_WEIGHTS, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["schema"] == "spt.predict/1"
    assert len(ran.document["images"]) == 2
    assert Path("predictions.json").is_file()
    assert len(list(Path().glob("*-prediction.png"))) == 2


def test_one_image_is_told_result_by_result() -> None:
    ran = spt("predict", "sample", "--limit", "1", "--weights", DEMO_WEIGHTS, "--save", "images")
    assert ran.code == 0, ran.err
    assert "box x y w h" in ran.out
    assert not Path("predictions.json").exists()


@pytest.mark.parametrize(("source", "code"), [("gone.jpg", 3), ("gone.mp4", 3), ("nowhere", 3)])
def test_what_is_not_there_is_named(source: str, code: int) -> None:
    ran = spt("predict", source, "--weights", DEMO_WEIGHTS)
    assert ran.code == code
    assert source in ran.err


@pytest.mark.parametrize(("variant", "then"), [("spt-nano", "spt viz-selection"), ("swin-nano", "spt evaluate")])
def test_what_comes_next_works_with_this_model(tmp_path: Path, variant: str, then: str) -> None:
    weights = nano_weights(tmp_path / "some model.safetensors", variant=variant)
    ran = spt("predict", "sample", "--limit", "1", "--weights", weights, "--save", "json", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["next"].startswith(then)
    assert f"'{weights}'" in ran.document["next"]


def test_what_comes_next_finds_the_same_data(tmp_path: Path) -> None:
    mini_data(tmp_path / "my sets" / "coco")
    weights = nano_weights(tmp_path / "some.safetensors")
    found_by = ("--root", tmp_path / "my sets", "--split", "train")
    ran = spt("predict", "coco", *found_by, "--weights", weights, "--save", "json", "--json")
    assert ran.code == 0, ran.err
    first = ran.document["next"]
    assert first == f"spt viz-selection coco --root '{tmp_path / 'my sets'}' --split train --weights {weights}"
    assert spt(*shlex.split(first)[1:]).code == 0


def test_a_broken_image_among_others_costs_only_itself() -> None:
    Path("some").mkdir()
    for name, picture in zip(("a.png", "c.png"), find_pictures("sample", Reading(), limit=2), strict=True):
        shutil.copy(picture.path, Path("some") / name)
    Path("some/b.png").write_bytes(b"<html>")
    ran = spt("predict", "some", "--weights", DEMO_WEIGHTS, "--conf", "0", "--out", "out", "--json")
    assert ran.code == 3
    assert "1 of 3 images" in ran.document["error"]["message"]
    assert "some/b.png" in ran.document["unread"][0]
    assert [one["name"] for one in ran.document["images"]] == ["a.png", "c.png"]
    assert {one["image_id"] for one in json.loads(Path("out/predictions.json").read_text())} == {1, 3}
    assert "some/b.png" in ran.err
    for name in ("a.png", "c.png"):
        (Path("some") / name).write_bytes(b"")
    ran = spt("predict", "some", "--weights", DEMO_WEIGHTS, "--out", "none", "--json")
    assert ran.code == 3
    assert not Path("none/predictions.json").exists()


def test_nothing_found_is_said() -> None:
    Image.new("RGB", (40, 30)).save("lone.png")
    ran = spt("predict", "lone.png", "--weights", DEMO_WEIGHTS, "--conf", "1", "--save", "json")
    assert ran.code == 0
    assert "nothing scored 1 or more" in ran.err
    assert "box" not in ran.out


def test_a_setting_that_does_not_fit_is_exit_2() -> None:
    Image.new("RGB", (40, 30)).save("lone.png")
    ran = spt("predict", "lone.png", "--weights", DEMO_WEIGHTS, "--video-out", "a.mp4")
    assert ran.code == 2
    assert "--video-out" in ran.err
