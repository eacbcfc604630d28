"""The one image loader: stored pixels or a clear refusal. Numbers in comments are fault-table rows."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.data.images import check_file_name, find_image, image_size, read_image
from sptcore.errors import DataError
from tests.support.miniatures import picture, write_picture
from tests.support.samples import samples_root


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path, words: str, **options) -> DataError:
    with pytest.raises(DataError, match=words) as caught:
        read_image(path, **options)
    assert str(path) in str(caught.value)
    return caught.value


def jpeg(width: int = 64, height: int = 48, **options) -> bytes:
    noisy = picture(width, height) ^ np.random.default_rng(0).integers(0, 32, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def test_pixels_are_those_stored(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", 40, 30)
    image = read_image(path, size=(40, 30))
    assert (image.shape, image.dtype) == ((30, 40, 3), np.uint8)
    assert np.array_equal(image, picture(40, 30))
    assert image.flags.writeable


def test_missing_files_folders_and_devices_are_refused(tmp_path: Path) -> None:  # 41
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "none.png", "missing")
    refused(tmp_path / "pipe.png", "regular file")
    refused(tmp_path / "folder.png", "regular file")
    refused(Path("/dev/zero"), "regular file")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:  # 42
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", "not an image|damaged")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [0.3, 0.5, 0.9, -2])
def test_a_truncated_jpeg_is_an_error_unless_allowed(tmp_path: Path, progressive: bool, cut: float) -> None:  # 42
    whole = jpeg(320, 240, progressive=progressive)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[: int(len(whole) * cut)] if cut > 0 else whole[:-2])
    error = refused(path, "damaged or truncated")
    assert "--allow-truncated" in (error.hint or "")
    image = read_image(path, allow_truncated=True)
    assert image.shape == (240, 320, 3)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
def test_other_truncated_files_are_errors(tmp_path: Path, suffix: str) -> None:  # 42
    path = write_picture(tmp_path / f"a{suffix}", 64, 48)
    assert read_image(path).shape == (48, 64, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "damaged|not an image")


@pytest.mark.parametrize("damage", ["zeros", "early end"])
def test_a_corrupt_scan_is_an_error(tmp_path: Path, damage: str) -> None:  # 42
    data = bytearray(jpeg(320, 240))
    middle = len(data) // 2
    if damage == "zeros":
        data[middle : middle + 100] = bytes(100)
    else:
        data[middle : middle + 2] = b"\xff\xd9"
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(data))
    refused(path, "Corrupt JPEG data")


def test_decoders_write_nothing_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg()[:500])
    refused(path, "damaged")
    assert capfd.readouterr().err == ""


def test_another_size_names_both(tmp_path: Path) -> None:  # 43
    path = write_picture(tmp_path / "a.png", 40, 30)
    error = refused(path, "40x30.*41x30", size=(41, 30))
    assert "EXIF" not in error.message


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_exif_never_turns_an_image(tmp_path: Path, orientation: int) -> None:  # 43
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture(100, 40)), quality=95, exif=exif)
    assert image_size(path) == (100, 40, orientation)
    assert read_image(path, size=(100, 40)).shape == (40, 100, 3)
    error = refused(path, "100x40.*40x100", size=(40, 100))
    assert (f"EXIF orientation {orientation}" in error.message) == (orientation >= 5)


MODES = {
    "grey": ("L", "a.jpg"),
    "cmyk": ("CMYK", "a.jpg"),
    "palette": ("P", "a.png"),
    "one bit": ("1", "a.png"),
    "alpha": ("RGBA", "a.png"),
    "grey alpha": ("LA", "a.png"),
    "16 bit": ("I;16", "a.png"),
    "webp": ("RGB", "a.webp"),
}


@pytest.mark.parametrize("kind", MODES)
def test_every_mode_becomes_eight_bit_rgb(tmp_path: Path, kind: str) -> None:  # 44
    mode, name = MODES[kind]
    if mode == "I;16":
        image = Image.fromarray(picture(40, 30)[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(picture(40, 30)).convert(mode)
    path = saved(tmp_path / name, image)
    pixels = read_image(path, size=(40, 30))
    assert (pixels.shape, pixels.dtype) == ((30, 40, 3), np.uint8)
    if mode == "I;16":
        expected = picture(40, 30)[..., :1].repeat(3, axis=2)
    else:
        expected = np.asarray(Image.open(path).convert("RGB"))
    difference = np.abs(pixels.astype(int) - expected.astype(int))
    assert difference.mean() < 8, "another picture"


def test_progressive_equals_its_own_pixels_in_pillow(tmp_path: Path) -> None:  # 44
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(progressive=True))
    difference = read_image(path).astype(int) - np.asarray(Image.open(path)).astype(int)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_animations_and_pages_are_refused(tmp_path: Path, name: str) -> None:  # 44
    frames = [Image.fromarray(picture(40, 30)), Image.fromarray(255 - picture(40, 30))]
    saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
    refused(tmp_path / name, "animation or a file of several pages")


def png_of_zeros(width: int, height: int) -> bytes:
    """A PNG that says it is that large, with at most 10 MB of black pixels packed in it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj()
    body = packer.compress(bytes(min(height * (1 + 3 * width), 10_000_000))) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 20_000), (65_500, 65_500), (2**31 - 1, 2**31 - 1), (10_001, 10_000)]
)
def test_bombs_are_refused_from_the_header(tmp_path: Path, width: int, height: int) -> None:  # 45
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_zeros(width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "megapixels|header is damaged")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_names_that_lead_out_are_told() -> None:  # 37
    for name in ["", "/a", "a\\b", "C:a", "..", "a/../b", "a\0"]:
        assert check_file_name(name)
    for name in ["a", "a/b", "..a", "a..b", "...", "ab:c", "-a", "~/a"]:
        assert check_file_name(name) is None


def test_links_out_of_the_root_need_permission(tmp_path: Path) -> None:  # 38
    inside, outside = tmp_path / "root", tmp_path / "outside.png"
    inside.mkdir()
    write_picture(outside, 4, 4)
    write_picture(inside / "true.png", 4, 4)
    (inside / "near.png").symlink_to("true.png")
    (inside / "far.png").symlink_to(outside)
    (inside / "folder").symlink_to(tmp_path)
    assert find_image(inside, "near.png") == inside / "near.png"
    for name in ["far.png", "folder/outside.png"]:
        with pytest.raises(DataError, match="link leads out"):
            find_image(inside, name)
        assert read_image(find_image(inside, name, follow_symlinks=True)).shape == (4, 4, 3)
    with pytest.raises(DataError, match="leads out"):
        find_image(inside, "../outside.png", follow_symlinks=True)


def test_a_root_that_is_a_link_itself_is_fine(tmp_path: Path) -> None:
    write_picture(tmp_path / "real" / "a.png", 4, 4)
    (tmp_path / "link").symlink_to("real")
    assert find_image(tmp_path / "link", "a.png") == tmp_path / "link" / "a.png"


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:  # 38
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    refused(tmp_path / "a.png", "cannot be read")


def test_importing_the_loader_is_cheap() -> None:
    code = "import sptcore.data.images, sys; print([m for m in ('cv2', 'PIL', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["coco", "pv-thermal"])
def test_every_image_of_the_samples_is_as_annotated(name: str) -> None:
    from sptcore.data.locate import open_index

    index = open_index(samples_root(name), "val")
    for record in index.records:
        image = read_image(index.image_path(record), size=(record.width, record.height))
        assert image.shape == (record.height, record.width, 3)
