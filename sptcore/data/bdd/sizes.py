"""The size of frames whose labels do not state one: from the JPEG's header, else BDD100K's own 1280x720."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sptcore.data.images import image_size

USUAL = (1280, 720)
_HEAD = 1 << 16
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 .. SOF15; DHT, JPG and DAC are none


def frame_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of the image at `path`, None when it is not there. Raises DataError for what is no image.

    70,000 headers are read in a few seconds: the JPEG case needs no decoder.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return image_size(path)[:2]
    try:
        head = os.read(handle, _HEAD) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    finally:
        os.close(handle)
    return _jpeg_size(head) or image_size(path)[:2]


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG by its first bytes, None where they do not hold the frame header (ITU T.81, B.2)."""
    if head[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if marker in _FRAME_MARKERS:
            height, width = (int.from_bytes(head[at + k : at + k + 2], "big") for k in (5, 7))
            return (width, height) if width and height else None
        at += 2 + length
    return None
