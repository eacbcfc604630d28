from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.errors import DataError, UsageError
from sptcore.runs import demo
from sptcore.viz.heatmap import Layer, heat_map
from sptcore.viz.job import Output, output_paths, viz_selection
from sptcore.viz.pictures import Picture, Reading, find_pictures
from sptcore.viz.selection import DEMO_BADGE, Look, open_watchers, see
from tests.support.weights import nano_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano_weights(tmp_path_factory.mktemp("weights") / "nano.safetensors")


def with_objects(count: int) -> list[Picture]:
    found = [one for one in find_pictures("sample", Reading()) if one.record is not None and one.record.instances]
    return found[:count]


def test_pictures_page_and_arrays(weights: Path, tmp_path: Path) -> None:
    output = Output(tmp_path / "out", tmp_path / "page.html", tmp_path / "arrays.npz")
    shown = with_objects(2)
    report = viz_selection(shown, [str(weights)], Look(labels=True), output, device="cpu")
    assert report.weights == ["nano"]
    assert not any("pixels" in vars(picture) for picture in shown)  # a whole data set would not fit into memory
    assert not report.demo
    stems = [image.image.stem for image in report.images]
    assert [image.file.name for image in report.images] == [f"{stem}-selection.png" for stem in stems]
    assert all(Image.open(image.file).width > 800 for image in report.images)
    html = output.page.read_text(encoding="utf-8") if output.page else ""
    assert html.count("data:image/webp;base64") == 2
    arrays = np.load(tmp_path / "arrays.npz")
    for image in report.images:
        blocks = [
            Layer(arrays[f"{image.image.stem}/mask_{row['block']}"], row["stride"], 0, 0, (128, 128))
            for row in image.blocks
        ]
        assert np.allclose(arrays[f"{image.image.stem}/heat"], heat_map(blocks, 128, 128))
        assert [row["ratio"] for row in image.blocks] == [block.ratio for block in blocks]
        assert [row["label_ratio"] for row in image.blocks] == [
            arrays[f"{image.image.stem}/label_{row['block']}"].mean() for row in image.blocks
        ]


@pytest.mark.parametrize("blocks", ["all", "2,4"])
def test_one_panel_a_block(weights: Path, blocks: str) -> None:
    picture = with_objects(1)
    both = [next(see(picture, open_watchers([str(weights)]), Look(blocks=one))) for one in ("sum", blocks)]
    assert both[1].figure.size != both[0].figure.size


def test_two_models_side_by_side(weights: Path) -> None:
    seen = next(see(with_objects(1), open_watchers([str(weights), str(weights)]), Look(style="dots")))
    assert len(seen.layers) == 2
    assert np.array_equal(seen.layers[0][0].mask, seen.layers[1][0].mask)


def test_demo_weights_are_marked_on_the_picture(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPT_RUNS", str(tmp_path / "none"))
    monkeypatch.setattr(demo, "DEMO_WEIGHTS", weights)
    watchers = open_watchers(["auto"])
    assert watchers[0].demo
    marked = next(see(with_objects(1), watchers, Look())).figure
    monkeypatch.setattr(demo, "DEMO_WEIGHTS", tmp_path / "others")
    plain = next(see(with_objects(1), open_watchers([str(weights)]), Look())).figure
    difference = np.abs(np.asarray(marked).astype(int) - np.asarray(plain).astype(int)).sum(-1)
    height, width = difference.shape
    assert difference[: height // 2, : width // 2].any()
    assert difference[: height // 2, width // 2 :].any()
    assert DEMO_BADGE == "demo weights"


def test_without_run_or_demo_weights_there_is_nothing_to_look_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPT_RUNS", str(tmp_path / "none"))
    monkeypatch.setattr(demo, "DEMO_WEIGHTS", tmp_path / "gone.safetensors")
    with pytest.raises(DataError, match="no run yet"):
        open_watchers(["auto"])


def test_a_dense_model_has_nothing_to_show(tmp_path: Path) -> None:
    path = nano_weights(tmp_path / "swin.safetensors", variant="swin-nano")
    with pytest.raises(UsageError, match="no block that selects"):
        open_watchers([str(path)])


def test_labels_of_a_lone_image_are_refused(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "lone.png"
    Image.new("RGB", (40, 30)).save(path)
    with pytest.raises(UsageError, match="--gt needs"):
        viz_selection([Picture(path)], [str(weights)], Look(labels=True), Output(tmp_path), device="cpu")


def test_where_pictures_go(tmp_path: Path) -> None:
    twins = [Picture(tmp_path / folder / "a.png") for folder in "xyz"]
    named = [path.name for path in output_paths(twins, tmp_path / "made")]
    assert named == ["a-selection.png", "a-2-selection.png", "a-3-selection.png"]
    assert output_paths(twins[:1], tmp_path / "b.webp") == [tmp_path / "b.webp"]
    assert output_paths(twins[:1], None) == [Path("a-selection.png")]
    with pytest.raises(UsageError, match="one file for 3"):
        output_paths(twins, tmp_path / "b.png")
    with pytest.raises(UsageError, match="replace the image"):
        output_paths(twins[:1], twins[0].path)
