"""Official archives: unpacked whole, merged with what is there, and refused when they reach out of their folder."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from sptcore.data.prepare import archive as job
from sptcore.data.prepare.archive import unpack
from sptcore.errors import DataError, EnvironmentFault

FILES = {"set/a.txt": b"one", "set/deep/b.bin": bytes(range(256)) * 10, "set/empty": b""}


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name), content)
    return path


def _tar(path: Path, files: dict[str, bytes], mode: str = "w:gz", extra: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        if extra is not None:
            packed.addfile(extra)
    return path


def _tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_is_unpacked_whole_and_a_second_time_changes_nothing(tmp_path, kind):
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        _zip(path, FILES)
    else:
        _tar(path, FILES, {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[kind])
    out = tmp_path / "out"
    assert unpack(path, out) == 3
    assert _tree(out) == FILES
    stamp = (out / "set" / "a.txt").stat().st_ino
    assert unpack(path, out) == 0
    assert (out / "set" / "a.txt").stat().st_ino == stamp
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["out", path.name])


def test_the_top_folder_is_taken_off_and_system_files_are_left_out(tmp_path):
    path = _zip(tmp_path / "a.zip", {**FILES, "__MACOSX/x": b"", "set/.DS_Store": b"", "./other/c": b"3"})
    unpack(path, tmp_path / "out", strip="set")
    assert _tree(tmp_path / "out") == {
        "a.txt": b"one",
        "deep/b.bin": FILES["set/deep/b.bin"],
        "empty": b"",
        "other/c": b"3",
    }


def test_archives_are_merged_and_nothing_is_overwritten(tmp_path):
    unpack(_zip(tmp_path / "a.zip", {"x/1": b"1", "x/2": b"2"}), tmp_path / "out")
    assert unpack(_zip(tmp_path / "b.zip", {"x/2": b"2", "x/3": b"3"}), tmp_path / "out") == 1
    with pytest.raises(DataError, match="x/3 is there already with another content"):
        unpack(_zip(tmp_path / "c.zip", {"x/3": b"other", "x/4": b"4"}), tmp_path / "out")
    assert _tree(tmp_path / "out") == {"x/1": b"1", "x/2": b"2", "x/3": b"3"}


HOSTILE = ["../out.txt", "/abs.txt", "a/../../b", "C:/x", "a\\b", "..", "set/../../../etc/passwd"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("make", [_zip, _tar])
def test_a_name_that_leads_out_is_refused_and_nothing_is_written(tmp_path, make, name):
    box = tmp_path / "a" / "b" / "c"
    box.mkdir(parents=True)
    path = make(tmp_path / "evil.zip", {"good": b"1", name: b"2"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"no official archive|file name"):
        unpack(path, box / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match="is a link or a device"):
        unpack(_tar(tmp_path / "a.tar.gz", {"good": b"1"}, extra=info), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        unpack(path, tmp_path / "out")


def test_a_damaged_archive_leaves_nothing_behind(tmp_path):
    whole = _zip(tmp_path / "a.zip", {"x": os.urandom(5000), "y": os.urandom(5000)}).read_bytes()
    damaged = tmp_path / "b.zip"
    damaged.write_bytes(whole[:2000] + bytes(50) + whole[2050:])
    with pytest.raises(DataError, match="damaged"):
        unpack(damaged, tmp_path / "out")
    cut = tmp_path / "c.tar.gz"
    cut.write_bytes(_tar(tmp_path / "d.tar.gz", {"x": os.urandom(50_000)}).read_bytes()[:30_000])
    with pytest.raises(DataError, match="damaged"):
        unpack(cut, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out-unpacking").exists()


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "page.zip").write_text("<html>sign in</html>")
    with pytest.raises(DataError, match="neither a zip nor a tar"):
        unpack(tmp_path / "page.zip", tmp_path / "out")
    with pytest.raises(DataError, match="missing"):
        unpack(tmp_path / "gone.zip", tmp_path / "out")


def test_an_entry_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="occurs twice"):
        unpack(_zip(tmp_path / "a.zip", {"./x": b"1", "x": b"2"}), tmp_path / "out")


def test_a_disk_that_is_too_small_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: _Usage())
    with pytest.raises(EnvironmentFault, match="are free"):
        unpack(_zip(tmp_path / "a.zip", {"x": b"12345"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Usage:
    free = 4
