"""Showing an image to a model and taking down what its blocks selected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from sptcore.data.padding import NO_PADDING
from sptcore.errors import UsageError
from sptcore.labels.geometry import Geometry, whole_image
from sptcore.models.variants import find_backbone
from sptcore.runs.models import LoadedModel
from sptcore.tasks.pixels import Normalise
from sptcore.viz.heatmap import Layer


def frame_of(
    loaded: LoadedModel,
    image: np.ndarray,
    resolution: tuple[int, int] | None = None,
    padding: tuple[int, int] = NO_PADDING,
) -> Geometry:
    """How `image` (H, W, 3) is fitted into `resolution`, by default the one the model was trained for.

    `padding`: columns and rows of the canvas the image lies on.
    """
    return whole_image(image.shape[1], image.shape[0], resolution or loaded.spec.resolution, padding)


@torch.inference_mode()
def look(loaded: LoadedModel, image: np.ndarray, geometry: Geometry, mask: np.ndarray | None = None) -> list[Layer]:
    """What every selecting block of the model selects in `image` (H, W, 3) uint8 RGB, in block order.

    The image is fitted by `geometry` and padded to a multiple of 32, as in evaluation. `mask` (H, W), the object
    pixels, is needed by a model that selects by ground truth; raises UsageError where such a model gets none.
    """
    backbone = find_backbone(loaded.model)
    if backbone.config.selector == "ground_truth" and mask is None:
        raise UsageError("this model selects by labels", hint="show it a data set, not a lone image")
    width, height = geometry.frame
    device = next(backbone.parameters()).device
    padded = torch.from_numpy(geometry.padded(image)).to(device).unsqueeze(0)
    pixels = Normalise().to(device)(padded, [(height, width)])
    labels = None if mask is None else _label_tensors(mask, geometry, padded.shape[-2:], device)
    features = backbone(pixels, torch.tensor([[height, width]]), labels)
    return [
        Layer(one.selection.mask[0].cpu().numpy(), one.stride, one.stage, one.block + 1, (height, width))
        for one in features.selections
    ]


def label_grids(mask: np.ndarray, geometry: Geometry, strides: Iterable[int]) -> dict[int, np.ndarray]:
    """The selection labels of an object mask (H, W) in the frame of the network, by stride."""
    return geometry.labels(mask, strides)


def label_layers(layers: Iterable[Layer], mask: np.ndarray, geometry: Geometry) -> list[Layer]:
    """What each of `layers` should have selected: the labels at its stride, in its place."""
    layers = list(layers)
    grids = label_grids(mask, geometry, {layer.stride for layer in layers})
    return [Layer(grids[one.stride], one.stride, one.stage, one.block, one.frame) for one in layers]


def _label_tensors(
    mask: np.ndarray, geometry: Geometry, shape: Sequence[int], device: torch.device
) -> dict[int, torch.Tensor]:
    tensors = {}
    for stride, grid in label_grids(mask, geometry, (4, 8, 16, 32)).items():
        padded = np.zeros((1, shape[0] // stride, shape[1] // stride), bool)
        padded[0, : grid.shape[0], : grid.shape[1]] = grid
        tensors[stride] = torch.from_numpy(padded).to(device)
    return tensors
