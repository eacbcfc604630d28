from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptcore.data.locate import open_index
from sptcore.errors import UsageError
from sptcore.prediction import PredictSettings, predict
from sptcore.runs.demo import DEMO_WEIGHTS
from sptcore.viz.pictures import Picture, Reading, find_pictures
from sptcore.viz.video import open_video, writing_video
from tests.support.weights import nano_weights

DEMO = str(DEMO_WEIGHTS)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return find_pictures("sample", Reading(), limit=3)


def test_results_are_those_of_evaluation(pictures: list[Picture], tmp_path: Path) -> None:
    """The same boxes as `spt evaluate` finds, in a file that it can score."""
    from sptcore.evaluation import EvaluationSettings, evaluate
    from sptcore.runs.demo import open_weights

    kept = tmp_path / "all.json"
    evaluate(open_weights(DEMO), EvaluationSettings(data="sample", batch=1, workers=0, save_predictions=kept))
    wanted = [one for one in json.loads(kept.read_text()) if one["score"] >= 0.3]
    report = predict(pictures, PredictSettings(DEMO, save="json", out=tmp_path))
    found = json.loads((tmp_path / "predictions.json").read_text())
    ids = [picture.record.image_id for picture in pictures if picture.record]
    assert len(found) > 3
    for image_id in ids:
        ours, theirs = ([one for one in entries if one["image_id"] == image_id] for entries in (found, wanted))
        assert sorted(one["score"] for one in ours) == pytest.approx(sorted(one["score"] for one in theirs), abs=1e-4)
        assert sorted(one["category_id"] for one in ours) == sorted(one["category_id"] for one in theirs)
    names = {category.category_id: category.name for category in open_index("sample", "val").categories}
    assert {one["category"] for one in found} <= set(names.values())
    assert report.demo
    assert "pictures" not in report.files
    assert not any("pixels" in vars(picture) for picture in pictures)  # a whole data set would not fit into memory


def test_confidence_keeps_the_surer_results_best_first(pictures: list[Picture], tmp_path: Path) -> None:
    low, high = (
        predict(pictures, PredictSettings(DEMO, confidence=least, save="json", out=tmp_path)) for least in (0.05, 0.6)
    )
    scores = [one["score"] for found in low.images for one in found.results]
    assert min(scores) < 0.6
    assert all(one["score"] >= 0.6 for found in high.images for one in found.results)
    assert sum(score >= 0.6 for score in scores) == sum(len(found.results) for found in high.images)
    for found in low.images:
        assert [one["score"] for one in found.results] == sorted((one["score"] for one in found.results), reverse=True)


def test_lone_images_are_numbered_and_drawn(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.radial_gradient("L").convert("RGB").resize((90, 60)).save(tmp_path / folder / "same.png")
    twins = [Picture(tmp_path / folder / "same.png") for folder in "ab"]
    report = predict(twins, PredictSettings(DEMO, confidence=0.0, save="both", out=tmp_path / "out"))
    assert [found.picture.name for found in report.images if found.picture] == [
        "same-prediction.png",
        "same-2-prediction.png",
    ]
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {one["image_id"] for one in entries} == {1, 2}


def test_a_video_becomes_a_video_and_its_frames_results(tmp_path: Path) -> None:
    picture = find_pictures("sample", Reading(), limit=1)[0].pixels
    with writing_video(tmp_path / "film.avi", 10.0) as sink:
        for _ in range(3):
            sink.add(picture)
    settings = PredictSettings(DEMO, out=tmp_path / "out", video_out=tmp_path / "found.mp4")
    report = predict(open_video(tmp_path / "film.avi"), settings)
    assert len(report.images) == 3
    assert report.images[0].results
    made = open_video(tmp_path / "found.mp4")
    assert (made.frames, made.size) == (3, (picture.shape[1], picture.shape[0]))
    assert {one["image_id"] for one in json.loads((tmp_path / "out" / "predictions.json").read_text())} == {1, 2, 3}


def test_what_cannot_be_done_is_told_before_anything_is_written(pictures: list[Picture], tmp_path: Path) -> None:
    out = tmp_path / "out"
    labelled = nano_weights(tmp_path / "gt.safetensors", selector="ground_truth")
    for settings, word in [
        (PredictSettings(DEMO, confidence=2.0, out=out), "score"),
        (PredictSettings(DEMO, save="all", out=out), "both"),
        (PredictSettings(DEMO, video_out=tmp_path / "a.mp4", out=out), "video"),
        (PredictSettings(str(labelled), out=out), "labels"),
    ]:
        with pytest.raises(UsageError) as caught:
            predict(pictures, settings)
        assert word in str(caught.value) + str(caught.value.hint)
        assert not out.exists()


def test_the_picture_shows_what_was_found(pictures: list[Picture], tmp_path: Path) -> None:
    one = predict(pictures[:1], PredictSettings(DEMO, save="images", out=tmp_path / "a"))
    none = predict(pictures[:1], PredictSettings(DEMO, confidence=1.0, save="images", out=tmp_path / "b"))
    assert one.images[0].results
    assert not none.images[0].results
    shown, bare = (np.asarray(Image.open(report.images[0].picture)) for report in (one, none))  # type: ignore[arg-type]
    assert (shown != bare).any()
    assert not (tmp_path / "a" / "predictions.json").exists()
