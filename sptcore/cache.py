"""Where spt keeps what it can make again: the sample set, label stores, byte-compiled kernels."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """The cache folder: `$SPT_CACHE`, else the user's (platformdirs), else one of our own in the temporary folder.

    The last serves accounts without a writable home. The folder exists on return unless `$SPT_CACHE` names one that
    cannot be made; writing into that tells what is wrong with it.
    """
    named = os.environ.get("SPT_CACHE")
    if named:
        folder = Path(named).expanduser()
        _made(folder)
        return folder
    import platformdirs

    usual = Path(platformdirs.user_cache_dir("spt", appauthor=False))
    return usual if _made(usual) else _temporary()


def _made(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary() -> Path:
    """`spt-<uid>` in the temporary folder if it is ours alone, else a new folder for this process."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"spt-{owner}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="spt-"))
    ours = not folder.is_symlink() and getattr(status, "st_uid", owner) == owner and not status.st_mode & 0o022
    return folder if ours else Path(tempfile.mkdtemp(prefix="spt-"))
