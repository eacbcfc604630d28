from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from sptcore.data.locate import locate
from sptcore.data.rasterize import PixelRule
from sptcore.data.stats import MEASURES, SetStats, coco_sizes, histograms, set_stats, write_csv, write_html
from sptcore.errors import DataError, EnvironmentFault
from tests.support.label_stores import coco_set
from tests.support.listening import Listener
from tests.support.miniatures import coco_document, mini_coco, picture, write_coco_file, write_picture
from tests.support.samples import samples_root


def stats_of(root: Path, **options) -> SetStats:
    return set_stats(locate(root), **options)


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    return mini_coco(tmp_path / "mini", splits=("train",))


def test_the_figures_of_the_miniature(mini: Path) -> None:
    found = stats_of(mini)
    (train,) = found.splits
    assert (train.images, train.empty, train.objects) == (3, 1, 4)
    assert train.mean_ratio == pytest.approx((160 / 1200 + 150 / 600) / 3)
    assert train.under == {"0.15": 2, "0.20": 2, "0.25": 2}
    assert found.ratio_pairs == ((160, 1200), (150, 600), (0, 256))
    assert found.objects.tolist() == [3, 1, 0]
    assert found.sides.tolist() == pytest.approx([10, 60**0.5, 20**0.5, 150**0.5])
    assert found.class_objects == {"cup": 1, "café ☕": 3}
    assert found.class_images == {"cup": 1, "café ☕": 2}
    assert (found.problems, found.noticed) == ({}, {"no mask, box used": 2})


def test_histograms_of_the_miniature(mini: Path) -> None:
    found = stats_of(mini)
    by = {measure: histograms(measure, 4, [found])[0] for measure in MEASURES}
    assert by["ratio"].counts == (2, 1, 0, 0)
    assert by["ratio"].edges[1] == (0.25, 0.5)
    assert by["count"].labels == ("0", "1", "2", "3")
    assert by["count"].counts == (1, 1, 0, 1)
    assert dict(zip(by["size"].labels, by["size"].counts, strict=True))["8 to 16"] == 2
    assert by["size"].counts[1] == 2
    assert (by["class"].labels, by["class"].counts) == (("café ☕", "cup"), (3, 1))
    assert [sum(one.counts) for one in by.values()] == [3, 4, 4, 3]


def test_an_edge_belongs_to_the_bin_above(mini: Path) -> None:
    document = coco_document()
    document["annotations"] = document["annotations"][1:2]
    write_coco_file(mini / "annotations" / "instances_train2017.json", document)
    assert histograms("ratio", 20, [stats_of(mini)])[0].counts[:6] == (2, 0, 0, 0, 0, 1)


def test_what_counts_follows_the_rule(mini: Path) -> None:
    found = stats_of(mini, rule=PixelRule(crowd="exclude"))
    assert found.ratio_pairs[0] == (120, 1200)
    assert found.objects.tolist() == [2, 1, 0]


def test_problems_with_images(mini: Path) -> None:
    folder = mini / "train2017"
    (folder / "seven.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(20, 30)).save(folder / "sub folder" / "two é.jpg", exif=exif)
    (folder / "-five.png").write_bytes(b"<html>")
    problems = stats_of(mini).problems
    assert {kind: [one.what for one in found] for kind, found in problems.items()} == {
        "image missing": ["seven.png"],
        "image turned by EXIF": ["sub folder/two é.jpg"],
        "image unreadable": ["-five.png"],
    }
    write_picture(folder / "-five.png", 17, 16)
    assert stats_of(mini).problems["image of another size"][0].detail == "17x16, its annotation says 16x16"


def test_a_missing_folder_is_one_problem(tmp_path: Path) -> None:
    found = stats_of(coco_set(tmp_path / "set", 30))
    (one,) = found.problems["image folder missing"]
    assert one.detail == "30 images of train"


def test_problems_with_annotations(mini: Path) -> None:
    document = coco_document()
    document["annotations"][0]["bbox"] = [50, 5, 10, 10]
    document["annotations"][1]["category_id"] = 99
    document["annotations"][2]["bbox"] = [30, 5, 16, 10]
    write_coco_file(mini / "annotations" / "instances_train2017.json", document)
    found = stats_of(mini)
    assert [one.what for one in found.problems["box outside the image"]] == ["annotations[0].bbox"]
    assert [one.detail for one in found.problems["unknown category"]] == ["99"]
    assert found.noticed["box clipped to the image"] == 1


def test_jobs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sptcore.data.sparse.measure as measuring

    monkeypatch.setattr(measuring, "BLOCK", 20)
    monkeypatch.setattr("sptcore.data.stats.BLOCK", 20)
    root = coco_set(tmp_path / "set", 90)
    listener = Listener()
    one, two = stats_of(root), stats_of(root, jobs=2, progress=listener)
    assert listener.stages == {"measuring train": 90}
    assert json.dumps(one.as_document(), default=vars) == json.dumps(two.as_document(), default=vars)
    assert one.sides.tolist() == two.sides.tolist()


def test_splits(tmp_path: Path) -> None:
    root = mini_coco(tmp_path / "mini")
    assert [part.split for part in stats_of(root).splits] == ["train", "val"]
    assert [part.split for part in stats_of(root, splits=["val"]).splits] == ["val"]
    with pytest.raises(DataError, match="no split 'test'"):
        stats_of(root, splits=["test"])


def test_two_sets_share_their_bins(mini: Path, tmp_path: Path) -> None:
    document = coco_document()
    document["categories"].append({"id": 9, "name": "zebra"})
    template = document["annotations"][3]
    document["annotations"] += [template | {"id": 100 + k, "category_id": 9} for k in range(20)]
    sets = [stats_of(mini), stats_of(mini_coco(tmp_path / "other", document, splits=("train",)))]
    for by in MEASURES:
        one, other = histograms(by, 6, sets)
        assert one.labels == other.labels
        assert len(one.counts) == len(other.counts) == len(one.labels)
    one, other = histograms("class", 6, sets)
    assert one.labels == ("café ☕", "cup", "zebra")
    assert (one.counts, other.counts) == ((3, 1, 0), (3, 1, 20))
    one, other = histograms("count", 6, sets)
    assert one.labels[0] == "0 to 3"
    assert (one.counts[0], other.counts[-1]) == (3, 1)


def test_an_empty_set(tmp_path: Path) -> None:
    document = coco_document() | {"images": [], "annotations": []}
    found = stats_of(mini_coco(tmp_path / "mini", document, splits=("train",)))
    assert found.as_document()["ratio_percentiles"] == {}
    assert [sum(histograms(by, 5, [found])[0].counts) for by in MEASURES] == [0, 0, 0, 0]
    write_html(tmp_path / "a.html", [found])


def test_sizes_are_coco_s() -> None:
    import numpy as np

    assert coco_sizes(np.array([1, 31.99, 32, 95.9, 96, 500])) == {"small": 2, "medium": 2, "large": 2}


def test_csv(mini: Path, tmp_path: Path) -> None:
    found = stats_of(mini)
    write_csv(tmp_path / "a.csv", [found, found], bins=4)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == ["by", "label", "low", "high", "mini", "mini"]
    assert ["ratio", "0.25 to 0.5", "0.25", "0.5", "1", "1"] in lines
    assert ["class", "café ☕", "", "", "3", "3"] in lines
    assert {line[0] for line in lines[1:]} == set(MEASURES)
    with pytest.raises(EnvironmentFault):
        write_csv(tmp_path / "none" / "a.csv", [found])


class Page(HTMLParser):
    """Collects tags and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.outside += [value for key, value in attrs if key in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_page_stands_alone(mini: Path, tmp_path: Path) -> None:
    document = coco_document()
    document["categories"][0]["name"] = "<script>alert(1)</script>"
    document["annotations"][0]["bbox"] = [50, 5, 10, 10]
    write_coco_file(mini / "annotations" / "instances_train2017.json", document)
    write_html(tmp_path / "a.html", [stats_of(mini), stats_of(mini)])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("svg") == 8
    assert (page.outside, page.open) == ([], [])
    assert "script" not in page.tags
    assert "&lt;script&gt;" in text
    assert "http" not in text
    assert "url(" not in text
    assert "annotations[0].bbox" in text


def test_the_real_samples() -> None:
    for name in ("coco", "pv-thermal"):
        facts = json.loads((samples_root(name) / "facts.json").read_bytes())
        found = stats_of(samples_root(name))
        assert {part.split: part.images for part in found.splits} == {
            split.removesuffix("2017"): facts[split]["images"] for split in facts
        }
        assert sum(part.objects for part in found.splits) == sum(facts[split]["annotations"] for split in facts)
        assert not found.problems
    assert found.noticed == {"no mask, box used": 2624}
