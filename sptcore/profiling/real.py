"""Select ratios of real images: what weights select in them, or what their labels would have selected."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sptcore.data.padding import NO_PADDING, image_mask, read_canvas
from sptcore.data.rasterize import touch_mask
from sptcore.data.records import DatasetIndex, ImageRecord
from sptcore.errors import DataError
from sptcore.labels.geometry import whole_image
from sptcore.models.config import STRIDES
from sptcore.models.variants import AnyBackboneConfig, find_backbone
from sptcore.profiling.macs import DetectorShape, spa_places
from sptcore.profiling.subjects import Selection, Subject
from sptcore.progress import SILENT, Progress, track
from sptcore.runs.models import LoadedModel
from sptcore.tasks.base import BlockCounts, add_counts, block_counts
from sptcore.tasks.detection import DetectionTask
from sptcore.tasks.detector import HeadsConfig
from sptcore.tasks.pixels import Normalise


def trained_subject(name: str, loaded: LoadedModel, selections: tuple[Selection, ...]) -> Subject:
    """A loaded model as a subject, at `selections`.

    Its heads are its own where it is a detector, else those that a detector of its size would be given.
    """
    spec = loaded.spec
    heads = spec.heads if spec.task == "detect" else DetectionTask().heads_config("auto", spec.variant)
    shape = DetectorShape(HeadsConfig.from_dict(heads), categories=len(spec.categories), masks=spec.masks)
    backbone = find_backbone(loaded.model)
    return Subject(name, backbone.config, selections, shape, backbone.state_dict())


@torch.inference_mode()
def measured_selection(
    loaded: LoadedModel,
    index: DatasetIndex,
    size: tuple[int, int],
    *,
    limit: int,
    allow_truncated: bool = False,
    follow_symlinks: bool = False,
    progress: Progress = SILENT,
) -> Selection:
    """What the model selects in the first `limit` images, each fitted into `size` (width, height): a ratio a block.

    Ratios are micro averages: selected tokens of all images / their tokens. Raises DataError for a broken image and for
    a data set without any.
    """
    backbone, normalise = find_backbone(loaded.model), Normalise()
    device = next(backbone.parameters()).device
    normalise.to(device)
    counts: list[BlockCounts] = []
    for record in track(_first(index, limit), progress, "measuring the select ratio"):
        image = read_canvas(index, record, allow_truncated=allow_truncated, follow_symlinks=follow_symlinks)
        geometry = whole_image(record.width, record.height, size, index.padding)
        frame = (geometry.frame[1], geometry.frame[0])
        pixels = torch.from_numpy(geometry.padded(image)).to(device).unsqueeze(0)
        features = backbone(normalise(pixels, [frame]), torch.tensor([frame]))
        counts = add_counts(counts, block_counts(features, None))
    return Selection("measured", tuple(one.select_ratio for one in counts))


def label_selection(
    config: AnyBackboneConfig,
    index: DatasetIndex,
    size: tuple[int, int],
    *,
    limit: int,
    progress: Progress = SILENT,
) -> Selection:
    """What the labels of the first `limit` images ask for, each fitted into `size` (width, height): a ratio a block."""
    strides = sorted({STRIDES[stage - 1] for stage, _ in spa_places(config)})
    positive, tokens = dict.fromkeys(strides, 0), dict.fromkeys(strides, 0)
    for record in track(_first(index, limit), progress, "reading labels"):
        geometry = whole_image(record.width, record.height, size, index.padding)
        mask = touch_mask(record) if index.padding == NO_PADDING else image_mask(record, index.padding)
        for stride, grid in geometry.labels(mask, strides).items():
            positive[stride] += int(grid.sum())
            tokens[stride] += grid.size
    by_stage = [STRIDES[stage - 1] for stage, _ in spa_places(config)]
    return Selection("labels", tuple(positive[stride] / tokens[stride] for stride in by_stage))


def _first(index: DatasetIndex, limit: int) -> Sequence[ImageRecord]:
    if not index.records:
        raise DataError("no image in this split", where=str(index.annotation_path))
    return index.records[:limit]
