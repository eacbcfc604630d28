from __future__ import annotations

import json
from pathlib import Path

import pytest

from sptcore.data.format import ReadOptions, Source
from sptcore.data.locate import locate, open_index, read_manifest, splits_of
from sptcore.errors import DataError, UsageError
from tests.support.bdd import make_bdd
from tests.support.miniatures import coco_document, mini_coco, write_coco_file
from tests.support.sparse_sets import make
from tests.support.tiny import make_tiny
from tests.support.voc import make_voc, voc_object, voc_xml


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_name_is_looked_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("root", "sets", "here/data", "here"):
        mini_coco(tmp_path / place / "coco", splits=("train",))
    monkeypatch.setenv("SPT_DATA", str(tmp_path / "sets"))
    assert locate("coco", root=tmp_path / "root").root == tmp_path / "root" / "coco"
    assert locate("coco").root == tmp_path / "sets" / "coco"
    monkeypatch.delenv("SPT_DATA")
    assert locate("coco").root == Path("data/coco")
    for split in ("annotations", "train2017"):
        (tmp_path / "here" / "data" / "coco" / split).rename(tmp_path / f"away {split}")
    assert locate("coco").root == Path("coco")


def test_other_names_of_a_folder_and_the_root_itself(tmp_path: Path) -> None:
    mini_coco(tmp_path / "a" / "coco2017")
    assert locate("coco", root=tmp_path / "a").root == tmp_path / "a" / "coco2017"
    mini_coco(tmp_path / "b")
    source = locate("coco", root=tmp_path / "b")
    assert (source.name, source.format, source.root) == ("coco", "coco", tmp_path / "b")


def test_the_images_of_an_annotation_file_lie_in_the_set_below_the_root(tmp_path: Path) -> None:
    sets, mine = tmp_path / "sets", tmp_path / "mine.json"
    mini_coco(sets / "coco")
    mine.write_bytes((sets / "coco" / "annotations" / "instances_val2017.json").read_bytes())
    for given in (sets / "coco" / "annotations" / "instances_val2017.json", mine):
        for root in (sets, sets / "coco"):
            assert locate("coco", root=root, ann=given).root == sets / "coco"
    assert locate("coco", root=tmp_path / "elsewhere", ann=mine).root == tmp_path / "elsewhere"


def test_a_format_by_name_finds_the_images_of_an_annotation_file_that_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPT_DATA", str(tmp_path / "sets"))
    mini_coco(tmp_path / "sets" / "coco")
    mine = tmp_path / "mine.json"
    mine.write_bytes((tmp_path / "sets" / "coco" / "annotations" / "instances_val2017.json").read_bytes())
    assert locate("coco", ann=mine).root == tmp_path / "sets" / "coco"
    assert locate(str(mine)).root == tmp_path


def test_a_folder_of_bitmasks_is_an_annotation(tmp_path: Path) -> None:
    make_bdd(tmp_path / "bdd", [])
    masks = tmp_path / "masks" / "train"
    masks.mkdir(parents=True)
    source = locate(tmp_path / "bdd", ann=masks)
    assert (source.format, source.root, source.annotation) == ("bdd", tmp_path / "bdd", masks)


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'coco' is not found") as caught:
        locate("coco", root=tmp_path / "sets")
    for folder in (tmp_path / "sets" / "coco", "data/coco", "coco2017"):
        assert str(folder) in (caught.value.where or "")
    assert "cocodataset.org" in (caught.value.hint or "")
    assert "--root" in (caught.value.hint or "")
    with pytest.raises(DataError) as caught:
        locate("ccoo")
    assert "'coco'" in (caught.value.hint or "")


def test_a_named_format_never_becomes_another(tmp_path: Path) -> None:
    mini_coco(tmp_path / "sets" / "voc")
    with pytest.raises(DataError, match="'voc' is not found"):
        locate("voc", root=tmp_path / "sets")


def test_formats_of_folders(tmp_path: Path) -> None:
    mini_coco(tmp_path / "a")
    make_bdd(tmp_path / "b", [])
    make_voc(tmp_path / "c", {"2007_000001": voc_xml(voc_object("cat", (1, 1, 5, 5)))})
    make_tiny(tmp_path / "d")
    found = {name: locate(tmp_path / name).format for name in "abcd"}
    assert found == {"a": "coco", "b": "bdd", "c": "voc", "d": "tiny-imagenet"}
    for name, format in found.items():
        assert locate(tmp_path / name, format=format).format == format
    with pytest.raises(DataError, match="no data set of a known layout"):
        locate(tmp_path / "a", format="voc")


def test_folders_of_no_format_and_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set of a known layout") as caught:
        locate(str(tmp_path))
    for word in ("COCO", "BDD100K", "PASCAL VOC", "Tiny ImageNet"):
        assert word in (caught.value.hint or "")
    with pytest.raises(DataError, match="no such folder or file"):
        locate(tmp_path / "none")
    with pytest.raises(UsageError, match="no format 'coca'"):
        locate("coco", format="coca")


def test_a_lone_annotation_file(tmp_path: Path) -> None:
    root = mini_coco(tmp_path / "set", splits=("val",))
    file = root / "annotations" / "instances_val2017.json"
    for source in (locate(file), locate("coco", ann=file), locate("coco", ann=file, root=root), locate(root, ann=file)):
        assert (source.format, source.root, source.annotation) == ("coco", root, file)
        assert splits_of(source) == ["val"]
    lone = write_coco_file(tmp_path / "mine.json", coco_document())
    source = locate(lone)
    assert (source.name, source.root, splits_of(source)) == ("mine", tmp_path, ["train"])
    assert len(open_index(lone, "train").records) == 3
    assert open_index("coco", "anything", ann=lone, root=tmp_path).split == "anything"
    with pytest.raises(DataError, match="annotation file is missing"):
        locate("coco", ann=tmp_path / "none.json")


def test_a_lone_bdd_file(tmp_path: Path) -> None:
    file = make_bdd(tmp_path / "set", [{"name": "a.jpg", "labels": None}])
    source = locate(file)
    assert (source.format, source.root) == ("bdd", tmp_path / "set")


def test_the_sample_and_its_layouts() -> None:
    source = locate("sample")
    assert (source.name, source.format) == ("sample", "coco")
    assert len(open_index("sample", "val").records) == 48
    with pytest.raises(UsageError, match="no format"):
        locate("sample", format="yolo")


class TestSparseSets:
    def test_by_name_with_its_images_where_they_were(self, tmp_path: Path) -> None:
        root = mini_coco(tmp_path / "mini")
        Path("data").mkdir()
        make(root, Path("data/mini-s20"))
        source = locate("mini-s20")
        assert (source.name, source.format, source.root) == ("mini-s20", "coco", Path("data/mini-s20"))
        assert source.origin == root
        assert source.image_roots == {"train": root / "train2017", "val": root / "val2017"}
        assert open_index("mini-s20", "val").image_root == root / "val2017"
        assert locate(Path("data/mini-s20").absolute()).image_roots == source.image_roots

    def test_it_is_not_taken_for_its_origin(self, tmp_path: Path) -> None:
        make(mini_coco(tmp_path / "coco"), tmp_path / "coco-s20")
        with pytest.raises(DataError, match="'coco' is not found"):
            locate("coco", root=tmp_path / "coco-s20")

    @pytest.mark.parametrize(
        ("key", "value"),
        [("format", "other"), ("origin", 5), ("splits", {"train": 3}), ("splits", []), ("schema", "spt.sparse-set/9")],
    )
    def test_a_damaged_manifest(self, tmp_path: Path, key: str, value) -> None:
        out = tmp_path / "out"
        make(mini_coco(tmp_path / "mini"), out)
        manifest = json.loads((out / "manifest.json").read_bytes()) | {key: value}
        (out / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match="manifest") as caught:
            locate(out)
        assert "manifest.json" in (caught.value.where or "")

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "web/1"}', "\xff", "[" * 100_000])
    def test_another_manifest_is_none_of_ours(self, tmp_path: Path, content: str) -> None:
        root = mini_coco(tmp_path / "mini")
        (root / "manifest.json").write_text(content, encoding="latin-1")
        assert read_manifest(root) is None
        assert locate(root).format == "coco"


def test_options_reach_the_reader(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0]["bbox"] = None
    document["annotations"][0]["segmentation"] = []
    root = mini_coco(tmp_path / "mini", document)
    assert len(open_index(root, "train").dropped) == 1
    with pytest.raises(DataError, match=r"annotations\[0\].bbox"):
        open_index(root, "train", strict=True)
    options = ReadOptions(strict=True, size=(3, 4))
    assert locate(root, options=options).options == options


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017", "val"),
        ("constrained_val", "val"),
        ("det_train", "train"),
        ("trainval", "train"),
        ("x", "train"),
    ],
)
def test_the_split_of_a_lone_file_is_in_its_name(tmp_path: Path, name: str, split: str) -> None:
    assert splits_of(Source("a", "coco", tmp_path, tmp_path / f"{name}.json")) == [split]
