"""One annotation file of PASCAL VOC: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html.

Read by expat with any DOCTYPE refused, so that no entity can be declared: neither expansion bombs nor outside files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from sptcore.errors import DataError

MAX_BYTES = 10 << 20
MAX_DEPTH = 50
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocObject:
    """An `<object>` that starts in `line`: the texts of the file, parts and actions left out."""

    line: int
    name: str = ""
    difficult: str = ""
    corners: dict[str, str] = field(default_factory=dict)


@dataclass
class VocAnnotation:
    """What is needed of an annotation file. `size` holds the texts of width and height where given."""

    filename: str = ""
    size: dict[str, str] = field(default_factory=dict)
    objects: list[VocObject] = field(default_factory=list)


def parse_annotation(data: bytes, path: Path) -> VocAnnotation:
    """The content of one annotation file. Raises DataError with the line for anything else than a VOC annotation."""
    if len(data) > MAX_BYTES:
        raise DataError(f"an annotation of {len(data)} bytes; the limit is {MAX_BYTES >> 20} MiB", where=str(path))
    reader = _Reader(path)
    parser = reader.parser
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        message = expat.errors.messages.get(error.code, str(error))
        raise DataError(
            f"not well-formed XML: {message} (column {error.offset})", where=f"{path}:{error.lineno}"
        ) from error
    except (ValueError, LookupError) as error:  # an encoding that Python does not know or cannot use
        raise DataError(f"not readable as XML: {error}", where=str(path)) from error
    return reader.annotation


class _Reader:
    """expat's handlers; they note texts by their place in the tree, so that a part's box is never an object's."""

    def __init__(self, path: Path) -> None:
        self.annotation = VocAnnotation()
        self._path = path
        self._stack: list[str] = []
        self._text: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append

    def _refuse_doctype(self, *_: object) -> None:
        raise self._fault("a DOCTYPE is not allowed in an annotation (it can declare entities)")

    def _fault(self, message: str) -> DataError:
        return DataError(message, where=f"{self._path}:{self.parser.CurrentLineNumber}")

    def _start(self, name: str, _: dict[str, str]) -> None:
        stack = self._stack
        if not stack and name != "annotation":
            raise self._fault(f"not a VOC annotation: the outermost element is <{name[:40]}>")
        stack.append(name)
        if len(stack) == 2 and name == "object":
            self.annotation.objects.append(VocObject(self.parser.CurrentLineNumber))
        elif len(stack) > MAX_DEPTH:
            raise self._fault(f"elements nested more than {MAX_DEPTH} deep")
        self._text.clear()

    def _end(self, name: str) -> None:
        stack = self._stack
        stack.pop()
        depth = len(stack)  # of what encloses the element that ends
        if depth == 1 and name == "filename":
            self.annotation.filename = self._taken()
        elif depth == 2 and stack[1] == "size":
            self.annotation.size[name] = self._taken()
        elif depth == 2 and stack[1] == "object" and name in ("name", "difficult"):
            setattr(self.annotation.objects[-1], name, self._taken())
        elif depth == 3 and name in _CORNERS and stack[2] == "bndbox" and stack[1] == "object":
            self.annotation.objects[-1].corners[name] = self._taken()
        self._text.clear()

    def _taken(self) -> str:
        return "".join(self._text).strip()
