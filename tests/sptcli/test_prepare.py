"""`spt prepare`: a report for people and machines, exit 3 for what is not there, 5 for images that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.cli import spt


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "coco"
    for place in ("annotations", "val2017"):
        (folder / place).mkdir(parents=True)
    images = [{"id": 1, "file_name": "[red].jpg", "width": 4, "height": 3}]
    document = {"images": images, "annotations": [], "categories": []}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    Image.new("RGB", (4, 3)).save(folder / "val2017" / "[red].jpg")
    return tmp_path


def test_a_sound_set_is_reported(root):
    ran = spt("prepare", "coco", "--root", root, "--check")
    assert ran.code == 0
    assert "validation images" in ran.out
    assert "train2017.zip" in ran.err
    assert "next: spt stats coco" in ran.err


def test_the_document_holds_parts_splits_and_problems(root):
    document = spt("prepare", "coco", "--root", root, "--json").document
    assert document["schema"] == "spt.prepare/1"
    assert document["missing"] == ["train2017.zip"]
    assert document["splits"][0]["images"] == 1
    assert document["problems"] == []
    assert [part["state"] for part in document["parts"]] == ["missing", "partial", "partial"]


def test_a_failed_check_keeps_the_report_and_exits_5(root):
    Image.new("RGB", (9, 9)).save(root / "coco" / "val2017" / "[red].jpg")
    assert spt("prepare", "coco", "--root", root).code == 0
    ran = spt("prepare", "coco", "--root", root, "--check", "--json")
    assert ran.code == 5
    assert ran.document["problem_counts"] == {"image of another size": 1}
    assert ran.document["problems"][0]["file_name"] == "[red].jpg"
    ran = spt("prepare", "coco", "--root", root, "--check")
    assert "[red].jpg" in ran.out


def test_a_set_that_is_not_there_exits_3_and_names_its_page(tmp_path):
    ran = spt("prepare", "voc", "--root", tmp_path)
    assert ran.code == 3
    assert "host.robots.ox.ac.uk" in ran.err


def test_archives_of_a_set_without_official_ones_are_a_usage_error(tmp_path):
    assert spt("prepare", "sample", "--archive", tmp_path / "a.zip").code == 2


def test_it_runs_without_torch(root):
    lines = [
        "import sys, sptcli.app",
        f"sptcli.app.main(['prepare', 'coco', '--root', {str(root)!r}])",
        "assert 'torch' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=300, capture_output=True)
