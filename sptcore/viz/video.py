"""Video files frame by frame, read and written by OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sptcore.errors import DataError, EnvironmentFault, UsageError
from sptcore.files import atomic_path

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
_CODES = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


@dataclass(frozen=True)
class Video:
    """A video file: frames as its header counts them (0: unknown), frames a second, width and height in pixels."""

    path: Path
    frames: int
    rate: float
    size: tuple[int, int]


def open_video(path: Path) -> Video:
    """What the header of a video says. Raises DataError for a file that is missing or cannot be decoded here."""
    if not path.is_file():
        raise DataError("no such video", where=str(path))
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError("OpenCV cannot decode this video", where=str(path), hint="convert it to MP4 (H.264)")
        size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        count, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
        return Video(path, max(0, count), rate if rate > 0 else 25.0, size)
    finally:
        capture.release()


def frames_of(video: Video) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB in order. Raises DataError when there is none."""
    capture = cv2.VideoCapture(str(video.path))
    count = 0
    try:
        while True:
            there, frame = capture.read()
            if not there:
                break
            count += 1
            yield np.ascontiguousarray(frame[..., ::-1])
    finally:
        capture.release()
    if not count:
        raise DataError("no frame could be decoded", where=str(video.path))


class VideoSink:
    """Takes frames of one size, RGB; the first one settles it."""

    def __init__(self, path: Path, code: str, rate: float) -> None:
        self.path, self.code, self.rate = path, code, rate
        self.writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append (H, W, 3) uint8 RGB. Raises EnvironmentFault when OpenCV cannot encode here."""
        if self.writer is None:
            size = (frame.shape[1], frame.shape[0])
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*self.code), self.rate, size)
            if not self.writer.isOpened():
                raise EnvironmentFault(
                    "OpenCV cannot encode this video here", where=self.code, hint="try another suffix: .avi"
                )
        self.writer.write(np.ascontiguousarray(frame[..., ::-1]))


@contextmanager
def writing_video(path: Path, rate: float) -> Iterator[VideoSink]:
    """A sink whose video is published at `path` when the block ends well. Raises UsageError for an unknown suffix."""
    code = _CODES.get(path.suffix.lower())
    if code is None:
        raise UsageError(f"no video of suffix {path.suffix!r}", where=str(path), hint=f"one of {', '.join(_CODES)}")
    with atomic_path(path) as temp:  # its name keeps the suffix, by which OpenCV chooses the container
        sink = VideoSink(temp, code, rate)
        try:
            yield sink
        finally:
            if sink.writer is not None:
                sink.writer.release()
