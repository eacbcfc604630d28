"""The one image loader, with one policy for training, evaluation and pictures.

The header is checked before anything is decoded: regular files only, known formats, at most 100 megapixels, and the
size the annotation states. Pixels are never rotated by EXIF, as annotations refer to stored pixels. A file whose end or
middle is damaged is an error, never a half-grey sample, unless the caller allows it.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from sptcore.data.source_file import Mark, mark_of
from sptcore.errors import DataError, EnvironmentFault

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 1 << 30
FORMATS_READ = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
EXIF_ORIENTATION = 0x0112
_DAMAGED = re.compile(r"Corrupt JPEG data.*|Premature end of JPEG file")
_NATIVE = re.compile(r"Corrupt JPEG|Premature end|libpng|\[ ?(WARN|ERROR|INFO)|TIFF|JPEG|Invalid|Unsupported|OpenCV")
_DRIVE = re.compile(r"[A-Za-z]:")
_process_wide = threading.Lock()


def read_image(path: Path, *, size: tuple[int, int] | None = None, allow_truncated: bool = False) -> np.ndarray:
    """The image at `path` as uint8 (H, W, 3) RGB, stored orientation; `size` is the annotation's (width, height).

    Grey, palette, 16-bit and CMYK files become 8-bit RGB; alpha is dropped; animations and multi-page files are
    refused. Raises DataError naming the file for anything else than a whole image of that size.
    """
    data = read_regular_file(path)
    _check_header(path, data, size)
    image, damage = _decode(data)
    if (damage or image is None or _lacks_end(data)) and not allow_truncated:
        raise DataError(
            f"the image is damaged or truncated{f' ({damage})' if damage else ''}",
            where=str(path),
            hint="fetch the file again, or take what can be decoded with --allow-truncated",
        )
    if image is None:
        image = _decode_leniently(path, data)
    return image


def image_size(path: Path) -> tuple[int, int, int]:
    """(width, height, EXIF orientation) from the header alone; orientation 1 where none is stated. Raises DataError."""
    try:
        with Path(path).open("rb") as stream:
            _require_regular(path, os.fstat(stream.fileno()))
            header = _open_header(path, stream)
            return header.width, header.height, _orientation(header)
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=str(path)) from error


def check_file_name(name: str) -> str | None:
    """Why an annotation's `file_name` may not be used as a path below the image root; None when it may."""
    if not name:
        return "empty file name"
    if "\0" in name:
        return "NUL in file name"
    if "\\" in name:
        return "backslash in file name"
    if name.startswith("/") or _DRIVE.match(name):
        return "absolute file name"
    if ".." in name.split("/"):
        return "file name leads out of the image folder"
    return None


def find_image(root: Path, file_name: str, *, follow_symlinks: bool = False) -> Path:
    """The path of an image below `root`. Raises DataError when the name or a link leads out of it."""
    fault = check_file_name(file_name)
    if fault:
        raise DataError(fault, where=repr(file_name))
    path = root / file_name
    try:
        base, real = os.path.realpath(root), os.path.realpath(path)
    except UnicodeEncodeError as error:
        raise DataError(
            f"file names here are {error.encoding}, which has no such letters",
            where=ascii(file_name),
            hint="use a UTF-8 locale: LC_ALL=C.UTF-8",
        ) from error
    if follow_symlinks:
        return path
    if os.path.commonpath([base, real]) != base:
        raise DataError(
            f"a link leads out of the image folder, to {real}", where=str(path), hint="allow it with --follow-symlinks"
        )
    return path


def read_regular_file(path: Path, marks: dict[str, Mark] | None = None) -> bytes:
    """The bytes of a regular file; a folder, pipe or device is a DataError before it is opened.

    `marks` takes down how the file was, for `check_marks`.
    """
    try:
        status = os.stat(path)
        _require_regular(path, status)
        if marks is not None:
            marks[os.fspath(path)] = mark_of(status)
        with Path(path).open("rb") as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=str(path)) from error
    except PermissionError as error:
        raise EnvironmentFault("no permission to read the file", where=str(path)) from error
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a regular file", where=str(path))
    if status.st_size > MAX_FILE_BYTES:
        raise DataError(f"the file is too large ({status.st_size} bytes)", where=str(path))


def _check_header(path: Path, data: bytes, size: tuple[int, int] | None) -> None:
    header = _open_header(path, io.BytesIO(data))
    if header.format not in ("JPEG", "MPO") and getattr(header, "is_animated", False):
        raise DataError("an animation or a file of several pages is not an image", where=str(path))
    if size is None or (header.width, header.height) == size:
        return
    message = f"the image is {header.width}x{header.height}, its annotation says {size[0]}x{size[1]}"
    orientation = _orientation(header)
    if (header.height, header.width) == size and orientation in (5, 6, 7, 8):
        message += f": the annotation was made on the picture as EXIF orientation {orientation} turns it"
    raise DataError(message, where=str(path), hint="see what else differs with: spt stats")


def _open_header(path: Path, stream: IO[bytes]) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        header = Image.open(stream, formats=FORMATS_READ)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"the image has more than {MAX_PIXELS // 10**6} megapixels", where=str(path)) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, OverflowError) as error:
        known = ", ".join(FORMATS_READ)
        raise DataError(f"not an image this tool reads ({known}), or its header is damaged", where=str(path)) from error
    if header.width * header.height > MAX_PIXELS:
        raise DataError(
            f"the image is {header.width}x{header.height}, more than {MAX_PIXELS // 10**6} megapixels", where=str(path)
        )
    return header


def _orientation(header: Any) -> int:
    try:
        value = header.getexif().get(EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return 1
    return value if isinstance(value, int) else 1


def _decode(data: bytes) -> tuple[np.ndarray | None, str]:
    """The RGB pixels, or None, and what libjpeg had to say about damage."""
    cv2 = _opencv()
    with _native_messages() as messages:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pixels = None
    damage = next((line for line in messages if _DAMAGED.fullmatch(line)), "")
    return (None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)), damage


def _lacks_end(data: bytes) -> bool:
    """A JPEG without its end marker, which some decoders fill up with grey and say nothing."""
    return data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9", max(2, len(data) - (1 << 16))) < 0


def _decode_leniently(path: Path, data: bytes) -> np.ndarray:
    """What Pillow makes of a truncated file; it fills the rest with grey or black."""
    from PIL import Image, ImageFile

    with _process_wide:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            return np.array(Image.open(io.BytesIO(data), formats=FORMATS_READ).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError("nothing of the image can be decoded", where=str(path)) from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:  # a slim system without libGL
        raise EnvironmentFault(
            f"OpenCV cannot be loaded: {error}",
            hint="pip install --force-reinstall --no-deps opencv-python-headless",
        ) from error
    return cv2


@contextmanager
def _native_messages() -> Iterator[list[str]]:
    """Collect what decoders write to file descriptor 2: libjpeg tells of corrupt data nowhere else.

    Lines that other threads write meanwhile are passed on afterwards.
    """
    messages: list[str] = []
    with _process_wide, tempfile.TemporaryFile() as catch:
        try:
            saved = os.dup(2)
        except OSError:  # standard error is closed
            yield messages
            return
        os.dup2(catch.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            catch.seek(0)
            for line in catch.read().decode("utf-8", "replace").splitlines(keepends=True):
                if _NATIVE.match(line) or not line.strip():
                    messages.append(line.rstrip())
                else:
                    sys.stderr.write(line)
