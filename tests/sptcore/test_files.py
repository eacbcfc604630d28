"""Publishing is all or nothing, whatever fails on the way. Numbers are fault-table rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sptcore import files
from sptcore.errors import EnvironmentFault
from sptcore.files import atomic_folder, atomic_path, sha256_of, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "één")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.txt"]
    assert sha256_of(path) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"


class Stop(Exception):
    """The failure in the middle."""


def stop_after(_: object) -> None:
    raise Stop


def test_a_failure_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), atomic_path(path) as temp:
        stop_after(temp.write_text("half"))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["none/a.txt", "file/a.txt"])
def test_where_one_cannot_write(tmp_path: Path, name: str) -> None:  # 52
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFault) as caught:
        write_atomically(tmp_path / name, "x")
    assert name in (caught.value.where or "")


def test_a_failing_flush_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # 51
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EnvironmentFault, match="Input/output error"):
        write_atomically(path, "new")
    with pytest.raises(EnvironmentFault), atomic_folder(tmp_path / "folder") as temp:
        (temp / "a").write_text("x")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("has_call", [True, False])
def test_many_files_are_flushed_at_once_or_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_call: bool
) -> None:
    flushed: list[Path] = []
    whole: list[Path] = []
    monkeypatch.setattr(files, "MANY", 3)
    monkeypatch.setattr(files, "fsync", flushed.append)
    monkeypatch.setattr(files, "_sync_file_system", lambda path: whole.append(path) or has_call)
    for count in (3, 4):
        with atomic_folder(tmp_path / f"folder{count}") as temp:
            for number in range(count):
                (temp / f"{number}.txt").write_text("x")
    assert len(whole) == 1  # four files are more than three
    assert len([path for path in flushed if path.suffix == ".txt"]) == (3 if has_call else 7)
    assert len(os.listdir(tmp_path / "folder4")) == 4


def test_a_file_system_that_cannot_be_flushed_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "MANY", 0)
    monkeypatch.setattr(files, "_sync_file_system", fail)
    with pytest.raises(EnvironmentFault, match="Input/output error"), atomic_folder(tmp_path / "folder") as temp:
        (temp / "a").write_text("x")
    assert os.listdir(tmp_path) == []


def test_the_file_system_call_answers(tmp_path: Path) -> None:
    assert files._sync_file_system(tmp_path) == (sys.platform == "linux")
    with pytest.raises(OSError):
        files._sync_file_system(tmp_path / "none")


def folder(path: Path, content: str, *, replace: bool = False) -> None:
    with atomic_folder(path, replace=replace) as temp:
        (temp / "sub").mkdir()
        (temp / "sub" / "a.txt").write_text(content)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool) -> None:
    if not swaps:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "set"
    folder(path, "old")
    with pytest.raises(EnvironmentFault, match="exists already"):
        folder(path, "new")
    assert (path / "sub" / "a.txt").read_text() == "old"
    folder(path, "new", replace=True)
    assert (path / "sub" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["set"]


def test_there_is_no_moment_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set"
    folder(path, "old")
    renames = []
    original = os.rename
    monkeypatch.setattr(os, "rename", lambda one, other: renames.append(other) or original(one, other))
    folder(path, "new", replace=True)
    if not renames:
        return  # swapped in one step
    assert renames[-1] == path


def test_a_failure_in_a_folder_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "set"
    folder(path, "old")
    with pytest.raises(Stop), atomic_folder(path, replace=True) as temp:
        stop_after((temp / "half").write_text("x"))
    assert (path / "sub" / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("limit", [0, 1, 4096, 100_000])
def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, limit: int) -> None:  # 50, by a limit on file sizes
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from sptcore.errors import EnvironmentFault\n"
        "from sptcore.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))\n"
        "try: write_atomically(Path(sys.argv[1]), bytes(200_000))\n"
        "except EnvironmentFault as fault: sys.exit(fault.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path, str(limit)], capture_output=True, timeout=120)
    assert done.returncode == 4, done.stderr
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
