"""From a loaded model to the module that is captured: stored pixels in, named tensors out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.errors import UsageError
from sptcore.export.detector import DetectorGraph
from sptcore.models.bodies import find_backbone
from sptcore.models.classifier import Classifier
from sptcore.runs.models import LoadedModel
from sptcore.tasks.pixels import Normalise

DIVISOR = 32
SCOPES = ("model", "backbone")


@dataclass(frozen=True, eq=False)
class Graph:
    """A module called with images (B, 3, H, W) uint8 RGB, the names of its outputs, and what each holds in words."""

    module: nn.Module
    shape: tuple[int, int, int, int]
    outputs: dict[str, str]

    @property
    def input_words(self) -> str:
        """What goes in."""
        return f"uint8 {list(self.shape)} RGB, 0..255"


class FrameEntry(nn.Module):
    """A frame of stored pixels (B, 3, H, W) as the network takes it, and its size inside the padding.

    Normalised, then zeros to the right and below up to whole multiples of 32, which are no part of the image.
    """

    image_sizes: Tensor | None

    def __init__(self, normalise: Normalise, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.normalise = normalise
        batch, _, height, width = shape
        self.padding = (0, -width % DIVISOR, 0, -height % DIVISOR)
        sizes = torch.tensor([[height, width]] * batch) if any(self.padding) else None
        self.register_buffer("image_sizes", sizes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = self.normalise.whole(images)
        return (F.pad(pixels, self.padding) if any(self.padding) else pixels), self.image_sizes


class ClassifierGraph(nn.Module):
    """Frames -> logits (B, classes), in the order of the model's categories."""

    def __init__(self, classifier: Classifier, entry: FrameEntry) -> None:
        super().__init__()
        self.classifier = classifier
        self.entry = entry

    def forward(self, images: Tensor) -> tuple[Tensor]:
        pixels, sizes = self.entry(images)
        return (Classifier.forward(self.classifier, pixels, sizes).logits,)


class BackboneGraph(nn.Module):
    """Frames -> the backbone's normed maps (B, C, H / stride, W / stride), finest first."""

    def __init__(self, backbone: nn.Module, entry: FrameEntry) -> None:
        super().__init__()
        self.backbone = backbone
        self.entry = entry

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(*self.entry(images)).maps.values())


def build_graph(loaded: LoadedModel, *, resolution: tuple[int, int], batch: int, scope: str) -> Graph:
    """The graph of a model in evaluation mode, which it freezes; `resolution` is (width, height) of the frame.

    `scope`: model, or backbone (its maps).
    """
    loaded.model.requires_grad_(False)
    width, height = resolution
    shape = (batch, 3, height, width)
    detects = loaded.spec.task == "detect"
    model: Any = loaded.model
    entry = FrameEntry(model.transform if detects else model.normalise, shape)
    if scope == "backbone":
        backbone = find_backbone(model)
        outputs = {f"map_stride{stride}": f"normed map of stride {stride}" for stride in backbone.strides}
        return Graph(BackboneGraph(backbone, entry).eval(), shape, outputs)
    if not detects:
        of = "of a softmax" if loaded.spec.task == "classify" else "of a sigmoid each"
        words = {"logits": f"[batch, classes] in the order of categories, the argument {of}"}
        return Graph(ClassifierGraph(model, entry).eval(), shape, words)
    ids = [category_id for category_id, _ in loaded.spec.categories]
    outputs = {
        "boxes": "[N, 4] x1 y1 x2 y2 in pixels of the frame, best first",
        "scores": "[N]",
        "classes": "[N] category ids",
    }
    if loaded.spec.masks:
        outputs["masks"] = "[N, m, m] 0..1 on a grid over the box; an object is where it is above one half"
    return Graph(DetectorGraph(model, entry, (height, width), ids).eval(), shape, outputs)


def check_exportable(
    loaded: LoadedModel, resolution: tuple[int, int], batch: int, scope: str, *, captured: bool = True
) -> None:
    """Raise UsageError, naming the setting, for what no file can hold; `captured`: the file holds a graph."""
    config, takes = loaded.spec.backbone, "--format safetensors takes it"
    if scope not in SCOPES:
        raise UsageError(f"no scope {scope!r}", hint=" or ".join(SCOPES))
    loaded.require_own_selection()
    if not captured:
        if batch != 1 or scope != "model":
            raise UsageError("a safetensors file holds the weights of the whole model", where="--batch, --scope")
        return
    if getattr(config, "attention", "") == "window_gather" and config.num_spa_blocks:
        reason = "attention = 'window_gather' makes sizes that follow the image, which no exported graph can hold"
        raise UsageError(reason, hint=takes)
    if config.is_plain and any(side % DIVISOR for side in resolution):
        nearest = "x".join(str(-(-side // DIVISOR) * DIVISOR) for side in resolution)
        raise UsageError("the graph of a ViT takes sides in whole multiples of 32", hint=f"--res {nearest}")
    if batch != 1 and loaded.spec.task == "detect" and scope == "model":
        raise UsageError("a detector's graph takes one image", where="--batch", hint="--batch 1, or --scope backbone")
