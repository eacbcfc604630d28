"""Job predict: what a model finds in images and videos, as pictures and as a COCO results file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sptcore.data.padding import NO_PADDING
from sptcore.errors import DataError, EnvironmentFault, UsageError
from sptcore.files import write_atomically
from sptcore.labels.geometry import whole_image
from sptcore.progress import SILENT, Progress, track
from sptcore.runs.demo import is_demo, open_weights
from sptcore.runs.device import pick_device
from sptcore.runs.models import LoadedModel, load_model
from sptcore.tasks.base import Batch, Result
from sptcore.viz.job import save_figure
from sptcore.viz.pictures import Picture
from sptcore.viz.results import draw_results
from sptcore.viz.selection import DEMO_BADGE
from sptcore.viz.video import Video, VideoSink, frames_of, writing_video

SUFFIX = "-prediction.png"
RESULTS = "predictions.json"
SAVES = ("images", "json", "both")


@dataclass(frozen=True)
class PredictSettings:
    """How images are looked at and what is kept. `confidence`: least score; `save`: images | json | both.

    `out`: folder of what is written (None: the current one); `video_out`: the annotated video; `resolution` (longer,
    shorter side): what images are fitted into, by default what the model was trained for.
    """

    weights: str = "auto"
    confidence: float = 0.3
    save: str = "both"
    out: Path | None = None
    video_out: Path | None = None
    resolution: tuple[int, int] | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Found:
    """One image or frame: its name, its size, what was found, the picture written (None without one)."""

    name: str
    width: int
    height: int
    results: list[Result]
    picture: Path | None = None


@dataclass(frozen=True)
class PredictReport:
    """The weights, whether they are the demo's, every image or frame in order, and the files written by kind.

    `selects`: whether the model selects tokens, so that there is a selection to look at. `unread`: what was wrong with
    each image that could not be read and was passed over, one among several.
    """

    weights: str
    demo: bool
    selects: bool
    images: list[Found]
    class_names: dict[int, str]
    files: dict[str, Path] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model that looks at one image after another."""

    loaded: LoadedModel
    settings: PredictSettings

    def __call__(self, pixels: np.ndarray, image_id: int, padding: tuple[int, int] = NO_PADDING) -> list[Result]:
        """What is found in (H, W, 3) uint8 RGB with at least the wanted score, best first, in pixels of the image.

        `padding`: columns and rows of the canvas the image lies on.
        """
        height, width = pixels.shape[:2]
        geometry = whole_image(width, height, self.settings.resolution or self.loaded.spec.resolution, padding)
        device = next(self.loaded.model.parameters()).device
        batch = Batch(
            images=torch.from_numpy(geometry.padded(pixels)).unsqueeze(0).to(device),
            image_sizes=torch.tensor([[geometry.frame[1], geometry.frame[0]]]),
            original_sizes=torch.tensor([[height, width]]),
            image_ids=[image_id],
        )
        with torch.inference_mode():
            (results,), _ = self.loaded.task.predict(self.loaded.model, batch, self.loaded.spec)
        wanted = [one for one in results if one["score"] >= self.settings.confidence]
        return sorted(wanted, key=lambda one: -one["score"])

    def draw(self, pixels: np.ndarray, results: Sequence[Result], *, demo: bool) -> Image.Image:
        """The picture of an image with its results; one made with the demo weights says so."""
        return draw_results(pixels, results, dict(self.loaded.spec.categories), badge=DEMO_BADGE if demo else "")


def predict(
    source: Sequence[Picture] | Video, settings: PredictSettings, *, progress: Progress = SILENT
) -> PredictReport:
    """Look at images or at a video, and write pictures, a results file, an annotated video, as the settings say.

    Of several images those that cannot be read are passed over and told of in the report. Raises UsageError for
    settings that do not fit each other or a model that needs labels, DataError for weights that are not there or broken
    and where no image can be read.
    """
    _check(source, settings)
    run = open_weights(settings.weights)
    loaded = load_model(run, device=pick_device(settings.device))
    loaded.require_own_selection()
    demo = is_demo(run)
    if demo and settings.weights == "auto":
        progress.note("no run with weights: the bundled demo weights, trained on the sample, look instead")
    folder = _folder(settings.out)
    predictor = Predictor(loaded, settings)
    look = _look_at_video if isinstance(source, Video) else _look_at_pictures
    report = PredictReport(run.name, demo, loaded.spec.backbone.num_spa_blocks > 0, [], dict(loaded.spec.categories))
    report.images.extend(look(source, predictor, report, folder, progress))  # type: ignore[arg-type]
    if settings.save != "images":
        path = folder / RESULTS
        write_atomically(path, json.dumps(_entries(report)) + "\n")
        report.files["results"] = path
    return report


def _check(source: Sequence[Picture] | Video, settings: PredictSettings) -> None:
    if settings.save not in SAVES:
        raise UsageError(f"no way to save {settings.save!r}", hint=", ".join(SAVES))
    if not 0 <= settings.confidence <= 1:
        raise UsageError(f"a score lies in 0..1, not {settings.confidence:g}", where="--conf")
    if settings.video_out is not None and not isinstance(source, Video):
        raise UsageError("--video-out needs a video to look at", hint="images are saved with --save images")
    target = settings.video_out
    if isinstance(source, Video) and target is not None and target.resolve() == source.path.resolve():
        raise UsageError("the video would replace the one it shows", where=f"--video-out {target}")


def _folder(out: Path | None) -> Path:
    folder = out or Path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot make the folder: {error.strerror}", where=str(folder)) from error
    return folder


def _look_at_pictures(
    pictures: Sequence[Picture], predictor: Predictor, report: PredictReport, folder: Path, progress: Progress
) -> Iterator[Found]:
    """Each image, under the id of its record where it has one, else under its number from 1.

    `pictures` keep no pixels: each is opened anew, so that a whole data set can be walked through.
    """
    taken: set[Path] = set()
    opened = map(replace, track(pictures, progress, "looking", len(pictures)))
    for number, one in enumerate(opened, start=1):
        if not _can_be_read(one, report, len(pictures), progress):
            continue
        image_id = number if one.record is None else one.record.image_id
        results, path = predictor(one.pixels, image_id, one.padding), None
        if predictor.settings.save != "json":
            path = _unused(folder, one.path.stem, taken)
            save_figure(predictor.draw(one.pixels, results, demo=report.demo), path)
            report.files["pictures"] = path if len(pictures) == 1 else folder
        name = one.path.name if one.record is None else one.record.file_name
        yield Found(name, one.pixels.shape[1], one.pixels.shape[0], results, path)


def _can_be_read(picture: Picture, report: PredictReport, among: int, progress: Progress) -> bool:
    """Whether the image is sound; one that is not is noted. Raises its DataError when it is the last without any."""
    try:
        _ = picture.pixels
    except DataError as error:
        report.unread.append(str(error))
        if len(report.unread) == among:
            raise
        progress.warn(f"passed over: {error}")
        return False
    return True


def _unused(folder: Path, stem: str, taken: set[Path]) -> Path:
    """`<stem>-prediction.png`, with a number where an image of the same stem came before."""
    path, number = folder / f"{stem}{SUFFIX}", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}-{number}{SUFFIX}"
    taken.add(path)
    return path


def _look_at_video(
    video: Video, predictor: Predictor, report: PredictReport, folder: Path, progress: Progress
) -> Iterator[Found]:
    """Each frame, numbered from 1; the annotated video beside the results unless only JSON is wanted."""
    target = predictor.settings.video_out
    if target is None and predictor.settings.save != "json":
        target = folder / f"{video.path.stem}-prediction.mp4"
    with ExitStack() as stack:
        sink: VideoSink | None = None
        if target is not None:
            sink = stack.enter_context(writing_video(target, video.rate))
            report.files["video"] = target
        frames: Iterable[np.ndarray] = frames_of(video)
        for number, pixels in enumerate(track(frames, progress, "looking", video.frames or None), start=1):
            results = predictor(pixels, number)
            if sink is not None:
                picture = predictor.draw(pixels, results, demo=report.demo)
                sink.add(np.asarray(picture.resize(video.size)))
            yield Found(f"{video.path.name}#{number}", pixels.shape[1], pixels.shape[0], results)


def _entries(report: PredictReport) -> list[dict[str, object]]:
    """COCO results, each with the name of its image and of its class."""
    return [
        {**result, "file_name": found.name, "category": report.class_names.get(result["category_id"])}
        for found in report.images
        for result in found.results
    ]
