"""`spt stats`: what it shows, the files it writes, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import spt, spt_process
from tests.support.miniatures import coco_document, mini_coco, write_coco_file


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return mini_coco(tmp_path / "mini")


def test_the_document(data: Path) -> None:
    ran = spt("stats", data, "--by", "count", "--bins", "4", "--json")
    document = ran.document
    assert (ran.code, document["schema"], document["ok"]) == (0, "spt.stats/1", True)
    assert (document["by"], document["labels"]) == ("count", ["0", "1", "2", "3"])
    assert document["counts"] == [[2, 2, 0, 2]]
    (mini,) = document["sets"]
    assert (mini["name"], mini["images"], mini["objects"]) == ("mini", 6, 8)
    assert mini["splits"][0]["under"] == {"0.15": 2, "0.20": 2, "0.25": 2}


@pytest.mark.parametrize("by", ["ratio", "size", "class", "count"])
def test_for_people(data: Path, by: str) -> None:
    ran = spt("stats", data, "--by", by, "--splits", "val")
    assert ran.code == 0
    assert "####" in ran.out
    assert "no mask, box used" in ran.out
    assert f"next: spt make-sparse {data} --max-ratio 0.2" in ran.err


def test_files_and_two_sets(data: Path, tmp_path: Path) -> None:
    mini_coco(tmp_path / "other")
    ran = spt("stats", data, "--compare", tmp_path / "other", "--csv", "a.csv", "--html", "a.html", "--jobs", "1")
    assert ran.code == 0
    assert "other" in ran.out
    assert Path("a.csv").read_text().startswith("by,label,low,high,mini,other\n")
    page = Path("a.html").read_text()
    assert "<svg" in page
    assert page.count("data:image/jpeg;base64") == 2  # the images of the miniature that have objects
    assert "page: a.html" in ran.err


def test_problems_are_shown_and_are_no_failure(data: Path) -> None:
    (data / "train2017" / "seven.png").unlink()
    document = coco_document()
    document["annotations"][0]["category_id"] = 99
    write_coco_file(data / "annotations" / "instances_val2017.json", document)
    ran = spt("stats", data)
    assert ran.code == 0
    assert "image missing" in ran.out
    assert "unknown category" in ran.out
    ran = spt("stats", data, "--strict")
    assert (ran.code, "unknown category" in ran.err) == (3, True)


def test_bad_input(data: Path) -> None:
    for arguments, code, words in [
        (["none"], 3, "is not found"),
        ([data, "--by", "colour"], 2, "colour"),
        ([data, "--bins", "0"], 2, "--bins"),
        ([data, "--splits", "test"], 3, "found: train, val"),
        ([data, "--csv", "no/such/a.csv"], 4, "no/such"),
        ([data, "--compare", "none"], 3, "is not found"),
    ]:
        ran = spt("stats", *arguments)
        assert ran.code == code, ran.err
        assert words in ran.err
        assert "Traceback" not in ran.err


def test_in_an_ascii_world(data: Path) -> None:
    ran = spt_process(
        "stats", data, "--by", "class", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    )
    assert ran.code == 0, ran.err
    assert "cup" in ran.out
