from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sptcore.errors import DataError, UsageError
from sptcore.viz.video import frames_of, open_video, writing_video


def film(path: Path, frames: int = 4) -> Path:
    """Frames of rising grey, 64 x 48."""
    with writing_video(path, 10.0) as sink:
        for number in range(frames):
            sink.add(np.full((48, 64, 3), 40 * number, np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    video = open_video(film(tmp_path / f"film{suffix}"))
    assert (video.size, video.rate, video.frames) == ((64, 48), 10.0, 4)
    means = [frame.mean() for frame in frames_of(video)]
    assert means == pytest.approx([0, 40, 80, 120], abs=6)


def test_colours_keep_their_order(tmp_path: Path) -> None:
    with writing_video(tmp_path / "red.avi", 5.0) as sink:
        sink.add(np.full((32, 32, 3), (250, 10, 10), np.uint8))
    red, green, blue = next(frames_of(open_video(tmp_path / "red.avi"))).reshape(-1, 3).mean(0)
    assert red > 200 > 60 > max(green, blue)


def broken_film(path: Path) -> None:
    """A frame, then an error."""
    with writing_video(path, 5.0) as sink:
        sink.add(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError


def test_a_video_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        broken_film(tmp_path / "half.mp4")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="cannot decode"):
        open_video(tmp_path / "text.mp4")
    with pytest.raises(DataError, match="no such video"):
        open_video(tmp_path / "gone.mp4")
    with pytest.raises(UsageError, match="suffix"), writing_video(tmp_path / "out.gif", 5.0):
        pass
