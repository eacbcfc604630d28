"""The table of formats and its plug-ins."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sptcore.data import FORMATS, formats
from sptcore.data.format import Format, Source, collect
from sptcore.data.locate import locate, open_index
from tests.support.label_stores import coco_set

PLUG_IN = '''
"""A format of one text file: image name, width, height a line."""
from sptcore.data.records import DatasetIndex, ImageRecord


def detect(root):
    return (root / "lines.txt").is_file()


def splits(root):
    return ["train"]


def read(source, split):
    rows = [line.split() for line in (source.root / "lines.txt").read_text().splitlines()]
    records = tuple(ImageRecord(n, row[0], int(row[1]), int(row[2])) for n, row in enumerate(rows))
    return DatasetIndex("lines", split, source.root / "lines.txt", source.root, (), records)


def write_subset(index, keep, out):
    kept = [record for record in index.records if record.image_id in keep]
    (out / "lines.txt").write_text("".join(f"{r.file_name} {r.width} {r.height}\\n" for r in kept))
    return [out / "lines.txt"]


def image_folder(index):
    from pathlib import Path

    return Path("images")
'''


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str, **modules: str) -> None:
    """A package `spt-lines` with these entry points on the path."""
    meta = folder / "spt_lines-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: spt-lines\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(f"[spt.formats]\n{points}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    formats.cache_clear()


@pytest.fixture(autouse=True)
def fresh_table():
    yield
    formats.cache_clear()


def test_the_built_in_formats() -> None:
    assert list(FORMATS) == ["coco", "bdd", "voc", "tiny-imagenet"]
    for name, known in FORMATS.items():
        module = known.load()
        assert (known.name, bool(known.home), bool(known.layout), bool(known.folders)) == (name, True, True, True)
        for function in ("detect", "splits", "read", "write_subset", "image_folder"):
            assert callable(getattr(module, function)), f"{name}.{function}"


def test_importing_the_table_is_cheap() -> None:
    code = "import sptcore.data, sys; print([m for m in ('numpy', 'cv2', 'torch', 'pycocotools') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_a_plug_in_is_read_and_cut_like_any_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.sparse_sets import make

    install(tmp_path, monkeypatch, "lines = spt_lines_format", spt_lines_format=PLUG_IN)
    assert formats()["lines"] == Format("lines", "lines", "spt_lines_format")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "lines.txt").write_text("a.png 30 20\nb.png 8 8\n")
    assert locate(tmp_path / "set").format == "lines"
    make(tmp_path / "set", tmp_path / "out")
    assert [record.file_name for record in open_index(tmp_path / "out", "train").records] == ["a.png", "b.png"]


def test_a_plug_in_may_be_a_format_of_its_own_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "from sptcore.data import Format\nFORMAT = Format('lines', 'Lines of text', 'spt_lines_format', ('lines',))\n"
    install(tmp_path, monkeypatch, "lines = spt_lines_row:FORMAT", spt_lines_format=PLUG_IN, spt_lines_row=row)
    assert formats()["lines"].title == "Lines of text"


@pytest.mark.parametrize("text", ["raise RuntimeError('no licence')", "import no_such_module", "x ="])
def test_a_broken_plug_in_is_a_warning_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text) -> None:
    install(tmp_path, monkeypatch, "lines = spt_lines_format", spt_lines_format=text)
    with pytest.warns(UserWarning, match="'lines' of spt-lines cannot be loaded"):
        table = formats()
    assert list(table) == list(FORMATS)


def test_a_plug_in_never_replaces_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "coco = spt_lines_format", spt_lines_format=PLUG_IN)
    with pytest.warns(UserWarning, match="'coco' of spt-lines has a name already in use"):
        assert formats()["coco"] is FORMATS["coco"]


def test_without_plug_ins_nothing_is_said() -> None:
    formats.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert formats() == FORMATS


def test_a_source_crosses_processes(tmp_path: Path) -> None:
    source = Source("x", "coco", tmp_path, image_roots={"train": tmp_path / "a"}, padding=(2, 2))
    assert pickle.loads(pickle.dumps(source)) == source


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_stream_collects_to_what_is_read(tmp_path: Path, size: int) -> None:
    source = locate(coco_set(tmp_path, 20))
    stream = FORMATS["coco"].stream(source, "train")
    assert stream is not None
    assert collect(stream, size) == FORMATS["coco"].read(source, "train")
