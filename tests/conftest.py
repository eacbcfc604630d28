"""Settings of every test: one thread a process, a cache of its own, no colour, no terminal."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache, data or runs."""
    home = tmp_path_factory.mktemp("spt-home")
    for name in ("SPT_CACHE", "SPT_RUNS"):
        os.environ[name] = str(home / name.lower())
    for name in ("SPT_DATA", "SPT_DEBUG", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)  # readline, loaded by pytest, hands a width of 80 to its worker processes
