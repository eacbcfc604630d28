"""JSON files by position: where the entries of an array lie in the bytes, and a subset as slices of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw

from sptcore.data.source_file import SourceFile
from sptcore.errors import DataError

BOM = b"\xef\xbb\xbf"
_KEY = re.compile(rb'\s*[{,]\s*"((?:[^"\\]|\\.)*)"\s*:\s*')
_SYNTAX_BYTE = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)", re.DOTALL)


class Spans(NamedTuple):
    """Where the entries of one array lie: `starts` and `ends` (n,) int64 byte positions; its text is [first, last)."""

    starts: np.ndarray
    ends: np.ndarray
    first: int
    last: int


def decode_text(source: SourceFile, kind: Any) -> Any:
    """The file's JSON as `kind`, without its byte order mark.

    Raises DataError with a byte offset for what is no JSON, and msgspec.ValidationError for JSON of another kind.
    """
    path, data = source.path, source.data
    _refuse_other_files(path, data)
    source.check_utf8()
    body = memoryview(data)[len(BOM) :] if data.startswith(BOM) else data
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise _syntax_error(path, str(error), data, len(data) - len(body)) from error
    except RecursionError as error:
        raise DataError("the JSON is nested too deeply", where=str(path)) from error


def _refuse_other_files(path: Path, data: bytes) -> None:
    if data.startswith(b"\x1f\x8b"):
        raise DataError("not JSON: the file is gzip-compressed", where=str(path), hint=f"gunzip {path}")
    if data.removeprefix(BOM).lstrip()[:1] == b"<":
        raise DataError("not JSON: this is an HTML or XML page", where=str(path), hint="download the file again")


def _syntax_error(path: Path, message: str, data: bytes, skipped: int) -> DataError:
    match = _SYNTAX_BYTE.fullmatch(message)
    if match:
        return DataError(f"not valid JSON: {match[1]} at byte {int(match[2]) + skipped}", where=str(path))
    what = "the file is empty" if not data.strip() else "the JSON ends too early"
    return DataError(f"{what}, at byte {len(data)}", where=str(path), hint="fetch the file again")


def refuse_duplicate_keys(path: Path, data: bytes, values: dict[str, Raw]) -> None:
    """Raise DataError for a key that occurs twice at the top level.

    Parsers take the last of two equal keys; a subset of such a file would mean something else to each of them.
    """
    previous = len(BOM) if data.startswith(BOM) else 0
    for start, end in sorted(place(data, raw) for raw in values.values()):
        key = _KEY.match(data, previous, start)
        if key is None or key.end() != start:
            name = key[1].decode("utf-8", "replace") if key else "?"
            raise DataError(f"the key `{name}` occurs twice, again after byte {previous}", where=str(path))
        previous = end
    if data[previous:].strip() != b"}":
        raise DataError(f"a key occurs twice, again after byte {previous}", where=str(path))


def place(data: bytes, raw: Raw) -> tuple[int, int]:
    """Byte positions of a Raw that is a view into `data`."""
    start = _address(raw) - _address(data)
    return start, start + memoryview(raw).nbytes


def _address(view: Any) -> int:
    return np.frombuffer(view, np.uint8).__array_interface__["data"][0]


def array_spans(data: bytes, array: Raw) -> Spans:
    """Where the entries of the array, a view into `data`, lie."""
    return entry_spans(data, msgspec.json.decode(array, type=list[Raw]), *place(data, array))


def entry_spans(data: bytes, entries: list[Raw], first: int, last: int) -> Spans:
    """As `array_spans`, for the array at [first, last) of `data` whose entries, views into `data`, are known."""
    lengths = np.fromiter((memoryview(entry).nbytes for entry in entries), np.int64, len(entries))
    if len(entries) < 2:
        starts = np.array([place(data, entry)[0] for entry in entries], np.int64)
        return Spans(starts, starts + lengths, first, last)
    begin, end = place(data, entries[0])
    gap = data[end : place(data, entries[1])[0]]
    starts = begin + np.concatenate([[0], np.cumsum(lengths[:-1] + len(gap))])
    if not _evenly_spaced(data, starts + lengths, gap) or starts[-1] != place(data, entries[-1])[0]:
        starts = np.fromiter((place(data, entry)[0] for entry in entries), np.int64, len(entries))
    return Spans(starts, starts + lengths, first, last)


def _evenly_spaced(data: bytes, ends: np.ndarray, gap: bytes) -> bool:
    """Whether the same separator follows every entry: then positions are a running sum of the lengths."""
    if ends[-1] > len(data):
        return False
    text = np.frombuffer(data, np.uint8)
    return all(bool((text[ends[:-1] + k] == letter).all()) for k, letter in enumerate(gap))


def chosen_slices(data: bytes, spans: Spans, chosen: np.ndarray) -> Iterator[memoryview]:
    """The array's text with the chosen entries only, (n,) bool; runs of neighbours come as one slice.

    An entry brings along the separator before it; the first kept one takes the opening of the array instead.
    """
    view = memoryview(data)
    places = np.flatnonzero(chosen)
    if not len(places):
        yield from (view[spans.first : spans.first + 1], view[spans.last - 1 : spans.last])
        return
    yield view[spans.first : int(spans.starts[0])]
    breaks = np.flatnonzero(np.diff(places) > 1)
    firsts, lasts = places[np.r_[0, breaks + 1]], places[np.r_[breaks, len(places) - 1]]
    for number, (first, last) in enumerate(zip(firsts.tolist(), lasts.tolist(), strict=True)):
        start = spans.starts[first] if number == 0 else spans.ends[first - 1]
        yield view[int(start) : int(spans.ends[last])]
    yield view[int(spans.ends[-1]) : spans.last]
