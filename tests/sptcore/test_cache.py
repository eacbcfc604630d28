"""Where the cache lies, also for accounts without a home that can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sptcore.cache import cache_folder


def test_the_named_cache_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("SPT_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert cache_folder().is_dir()


def test_without_a_name_it_is_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("SPT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().is_dir()


def test_a_home_that_cannot_be_written_is_replaced_by_a_private_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "temp").mkdir()
    monkeypatch.delenv("SPT_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "file" / "spt"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    folder = cache_folder()
    assert folder.parent == tmp_path / "temp"
    assert cache_folder() == folder
    assert not folder.stat().st_mode & 0o022


def test_a_temporary_folder_that_others_may_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.delenv("SPT_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: os.devnull + "/spt")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    taken = cache_folder()
    taken.chmod(0o777)
    other = cache_folder()
    assert other != taken
    assert Path(other).parent == tmp_path
