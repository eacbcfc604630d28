from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.support.cli import spt
from tests.support.weights import nano_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_weights(tmp_path_factory.mktemp("weights") / "nano.safetensors")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pictures" / "street.jpg"
    path.parent.mkdir()
    Image.radial_gradient("L").convert("RGB").resize((160, 96)).save(path)
    return path


def test_the_picture_lands_in_the_current_folder(image: Path, weights: Path) -> None:
    ran = spt("viz-selection", image, "--weights", weights)
    assert ran.code == 0, ran.err
    assert Image.open("street-selection.png").width > 800
    assert "picture: street-selection.png" in ran.err
    assert "4.2" in ran.out


def test_json_has_every_block(image: Path, weights: Path) -> None:
    ran = spt("viz-selection", image, "--weights", weights, "--json", "--style", "mask")
    found = ran.document["images"][0]
    assert (ran.code, ran.document["schema"]) == (0, "spt.viz-selection/1")
    assert [block["block"] for block in found["blocks"]] == ["3.1", "3.2", "4.1", "4.2"]
    assert all(block["selected"] == round(block["ratio"] * block["tokens"]) for block in found["blocks"])
    assert Path(ran.document["artefacts"]["picture"]).is_file()


def test_a_data_set_with_labels_a_page_and_arrays(image: Path, weights: Path) -> None:
    arguments = ("sample", "--gt", "--limit", "2", "--weights", weights, "--out", "seen")
    ran = spt("viz-selection", *arguments, "--html", "seen.html", "--save-npz", "seen.npz", "--json")
    assert ran.code == 0, ran.err
    assert len(os.listdir("seen")) == 2
    assert Path("seen.html").is_file()
    assert Path("seen.npz").is_file()
    assert "label_ratio" in ran.document["images"][0]["blocks"][0]


def test_an_absent_image_is_exit_3_before_any_weights_are_sought(image: Path) -> None:
    ran = spt("viz-selection", "gone.jpg")
    assert ran.code == 3
    assert "gone.jpg" in ran.err


def test_a_broken_image_is_exit_3_and_names_it(image: Path, weights: Path) -> None:
    image.write_bytes(image.read_bytes()[:300])
    ran = spt("viz-selection", image, "--weights", weights)
    assert ran.code == 3
    assert "street.jpg" in ran.err
    assert not Path("street-selection.png").exists()


@pytest.mark.parametrize(
    ("option", "word"),
    [
        (("--style", "heart"), "heat"),
        (("--blocks", "9"), "1 to 4"),
        (("--opacity", "2"), "opacity"),
        (("--gt",), "--gt"),
    ],
)
def test_what_cannot_be_drawn_is_exit_2(image: Path, weights: Path, option: tuple[str, ...], word: str) -> None:
    ran = spt("viz-selection", image, "--weights", weights, *option)
    assert ran.code == 2
    assert word in ran.err


def test_no_run_is_exit_3_with_the_command_that_makes_one(image: Path, tmp_path: Path) -> None:
    ran = spt("viz-selection", image, "--weights", "last", env={"SPT_RUNS": str(tmp_path / "none")})
    assert ran.code == 3
    assert "spt train" in ran.err
