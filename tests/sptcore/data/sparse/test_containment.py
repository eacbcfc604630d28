"""Hostile names and links open nothing outside the roots, as the interpreter's own audit sees it. Fault-table rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.miniatures import coco_document, mini_coco, write_coco_file

TRACED = """
import os, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event in ("open", "os.link", "os.symlink") else None)
from sptcli.app import main
code = main(["make-sparse", sys.argv[1], "-r", "0.2", "--out", sys.argv[2], "--images", "copy", "--jobs", "1"])
secret = os.path.realpath(sys.argv[3])
for path in opened:
    if isinstance(path, (str, bytes, os.PathLike)) and os.path.realpath(os.fsdecode(path)) == secret:
        sys.exit("opened " + secret)
sys.exit(code)
"""


def traced(root: Path, out: Path, secret: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TRACED, str(root), str(out), str(secret)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    path.write_bytes(b"secret")
    return path


@pytest.mark.parametrize("name", ["../../secret.png", "{}", "a/../../../secret.png", "sub folder/../../../secret.png"])
def test_names_that_lead_out(tmp_path: Path, secret: Path, name: str) -> None:  # 37
    root = mini_coco(tmp_path / "mini", splits=("train",))
    document = coco_document()
    document["images"][0]["file_name"] = name.format(secret)
    write_coco_file(root / "annotations" / "instances_train2017.json", document)
    done = traced(root, tmp_path / "out", secret)
    assert done.returncode == 3, done.stderr
    assert "images[0]" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", ["train2017/seven.png", "train2017/sub folder"])
def test_links_that_lead_out(tmp_path: Path, secret: Path, inside: str) -> None:  # 38
    document = coco_document()
    document["images"][0]["file_name"] = "sub folder/secret.png" if inside.endswith("folder") else "seven.png"
    root = mini_coco(tmp_path / "mini", document, splits=("train",))
    place = root / inside
    if place.is_dir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
        place.symlink_to(tmp_path)
    else:
        place.unlink()
        place.symlink_to(secret)
    done = traced(root, tmp_path / "out", secret)
    assert done.returncode == 3, done.stderr
    assert "link leads out" in done.stderr


def test_the_trace_itself_sees_what_is_opened(tmp_path: Path, secret: Path) -> None:
    root = mini_coco(tmp_path / "mini", splits=("train",))
    done = traced(root, tmp_path / "out", root / "train2017" / "seven.png")
    assert done.returncode == 1
    assert "opened" in done.stderr
