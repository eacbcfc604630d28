"""What every task shares: the batch, the model's description, the selection loss, the counts behind select ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.data.records import DatasetIndex
from sptcore.models.backbone import Features, PlacedSelection
from sptcore.models.variants import AnyBackboneConfig, config_from_dict

SelectLabels = Mapping[int, Tensor]
"""Stride -> bool (B, h, w): the tokens that touch an object, in the frame the network sees."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one forward pass, padded right and bottom to one size, a multiple of 32.

    `images` (B, 3, H, W) uint8 RGB; `image_sizes` (B, 2) int64: height and width inside the padding; `original_sizes`
    (B, 2): the same in the files. `targets`: a dict of tensors an image, as the task wants them. `select_labels` is
    None without labels (then there is no selection loss).
    """

    images: Tensor
    image_sizes: Tensor
    original_sizes: Tensor
    image_ids: list[int]
    targets: list[dict[str, Tensor]] = field(default_factory=list)
    select_labels: dict[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the sizes stay on the host."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=[{name: t.to(device, non_blocking=True) for name, t in target.items()} for target in self.targets],
            select_labels=None
            if self.select_labels is None
            else {stride: grid.to(device, non_blocking=True) for stride, grid in self.select_labels.items()},
        )

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a CUDA device takes it while the host goes on."""
        grids = self.select_labels
        return replace(
            self,
            images=self.images.pin_memory(),
            targets=[{name: tensor.pin_memory() for name, tensor in target.items()} for target in self.targets],
            select_labels=None if grids is None else {stride: grid.pin_memory() for stride, grid in grids.items()},
        )


@dataclass(frozen=True)
class ModelSpec:
    """A model as its weights file describes it: enough to build it again without the data.

    `categories`: (id, name) pairs under the data set's own ids, in the order of the model's outputs. `resolution`:
    longer and shorter side in pixels that images are fitted into. `heads`: the task's own settings.
    """

    task: str
    variant: str
    backbone: AnyBackboneConfig
    heads: dict[str, Any]
    categories: tuple[tuple[int, str], ...]
    masks: bool
    resolution: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "backbone": self.backbone.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for a description of something else."""
        long_side, short_side = values["resolution"]
        return cls(
            task=values["task"],
            variant=values["variant"],
            backbone=config_from_dict(values["backbone"]),
            heads=dict(values["heads"]),
            categories=tuple((int(category_id), str(name)) for category_id, name in values["categories"]),
            masks=bool(values["masks"]),
            resolution=(int(long_side), int(short_side)),
        )


NO_CLASS = -(2**63)
"""Stands in `ModelSpec.categories` for the id of a class that the data at hand does not know: never in a result."""

Result = dict[str, Any]
"""One entry of a results file in COCO's form: `image_id`, `category_id`, `score`, where there are any `bbox` (x, y,
width, height in pixels of the file) and `segmentation` (compressed run lengths)."""


@dataclass(frozen=True)
class Scores:
    """The figures of one kind; -1 where the ground truth has nothing to find, as in COCO.

    `per_class`: category id -> its figure, by name.
    """

    kind: str
    figures: dict[str, float]
    per_class: dict[int, float]


@dataclass(frozen=True)
class Scoring:
    """How results are measured: whether they have masks, by which back end, on which images (None: all)."""

    masks: bool = False
    backend: str = "faster"
    image_ids: Sequence[int] | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A training forward pass: the loss by its parts, already weighted, and what the backbone selected.

    `logits` (B, classes): of tasks that give each image a score by class.
    """

    losses: dict[str, Tensor]
    features: Features
    logits: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum of the parts, a scalar."""
        return torch.stack(list(self.losses.values())).sum()


class Task(Protocol):
    """One thing to learn: how its model is built, what it loses, what it predicts."""

    name: ClassVar[str]
    figures: ClassVar[Mapping[str, str]]
    """The figures worth telling, as "kind.figure" -> words; by the first the best weights are chosen."""

    def heads_config(self, name: str, variant: str) -> dict[str, Any]:
        """The settings of the heads called `name` ("auto" = what fits the variant), as plain values."""
        ...

    def refusal(self, index: DatasetIndex) -> str | None:
        """Why `index` cannot teach this task, None when it can."""
        ...

    def in_words(self, spec: ModelSpec) -> str:
        """What is learned of each image, after "learning N classes, "."""
        ...

    def build_model(self, spec: ModelSpec) -> nn.Module:
        """The network, freshly initialised from torch's global generator."""
        ...

    def outcome(self, model: nn.Module, batch: Batch, *, select_loss_weight: float) -> Outcome:
        """The losses of a batch, `loss_select` among them when it has labels and the model has gates."""
        ...

    def predict(self, model: nn.Module, batch: Batch, spec: ModelSpec) -> tuple[list[list[Result]], Features]:
        """The results of each image in the frame of its file, and what the backbone selected."""
        ...

    def score(self, index: DatasetIndex, results: Sequence[Result], scoring: Scoring) -> dict[str, Scores]:
        """Measure results against the annotations of `index`, by kind ("bbox", "label" ...)."""
        ...


def supervised(features: Features) -> list[PlacedSelection]:
    """The score maps Eq. 10 supervises: the map before the first selecting stage, then every gated block's."""
    placed = [] if features.entry is None else [features.entry]
    return [one for one in (*placed, *features.selections) if one.selection.gated]


def selection_losses(features: Features, select_labels: SelectLabels | None, weight: float) -> dict[str, Tensor]:
    """What a task adds to its own losses: `loss_select` (with labels and gates), and the backbone's own terms."""
    losses = dict(features.losses)
    if select_labels is not None and supervised(features):
        losses["loss_select"] = weight * select_loss(features, select_labels)
    return losses


def select_loss(features: Features, select_labels: SelectLabels) -> Tensor:
    """Eq. 10: binary cross-entropy of each score map against the labels of its stride, mean over valid tokens, summed.

    Computed in float32. Zero when no block has a gate. Raises KeyError when a stride has no labels.
    """
    losses = [_map_loss(one, select_labels[one.stride]) for one in supervised(features)]
    return torch.stack(losses).sum() if losses else torch.zeros((), device=next(iter(features.maps.values())).device)


def _map_loss(placed: PlacedSelection, labels: Tensor) -> Tensor:
    selection = placed.selection
    each = F.binary_cross_entropy_with_logits(selection.logits.float(), labels.float(), reduction="none")
    return torch.where(selection.valid, each, 0.0).sum() / selection.valid.sum().clamp(min=1)


@dataclass(frozen=True)
class BlockCounts:
    """Tokens of one block, added up over images: select ratio, recall and precision follow from them."""

    stage: int
    block: int
    stride: int
    valid: int = 0
    selected: int = 0
    own: int | None = None
    positive: int = 0
    hit: int = 0
    slots: int = 0

    def __add__(self, other: BlockCounts) -> BlockCounts:
        return replace(
            self,
            valid=self.valid + other.valid,
            selected=self.selected + other.selected,
            own=None if self.own is None or other.own is None else self.own + other.own,
            positive=self.positive + other.positive,
            hit=self.hit + other.hit,
            slots=self.slots + other.slots,
        )

    @property
    def name(self) -> str:
        """`stage3.block0`, as tables call it."""
        return f"stage{self.stage}.block{self.block}"

    @property
    def select_ratio(self) -> float:
        """Selected / valid tokens."""
        return self.selected / max(1, self.valid)

    @property
    def own_ratio(self) -> float | None:
        """What the block's own gate alone would select / valid tokens."""
        return None if self.own is None else self.own / max(1, self.valid)

    @property
    def label_ratio(self) -> float:
        """Tokens that touch an object / valid tokens."""
        return self.positive / max(1, self.valid)

    @property
    def padding_fraction(self) -> float | None:
        """Share of the containers' slots in which no token sat, 1 - P / (B' L); None without containers."""
        return 1 - self.selected / self.slots if self.slots else None

    @property
    def recall(self) -> float | None:
        """Share of the tokens with an object that were selected; None when there are none."""
        return self.hit / self.positive if self.positive else None

    @property
    def precision(self) -> float | None:
        """Share of the selected tokens that have an object; None when none was selected."""
        return self.hit / self.selected if self.selected else None


@dataclass(frozen=True, eq=False)
class CountRows:
    """The counts of a batch's selecting blocks, in block order, before anybody has waited for them.

    `rows` (blocks, 6) int64 on the device; `places`: stage, block and stride of each.
    """

    rows: Tensor
    places: tuple[tuple[int, int, int], ...]

    def read(self, numbers: Sequence[Sequence[float]]) -> list[BlockCounts]:
        """The counts, of `rows` as they came from the device, or of their sum over batches of other processes."""
        return [
            BlockCounts(*place, int(valid), int(selected), None if own < 0 else int(own), *map(int, rest))
            for place, (valid, selected, own, *rest) in zip(self.places, numbers, strict=True)
        ]


def count_rows(features: Features, select_labels: SelectLabels | None) -> CountRows:
    """The counts of every selecting block of a batch, left on the device."""
    rows = [_count_row(one, select_labels) for one in features.selections]
    places = tuple((one.stage, one.block, one.stride) for one in features.selections)
    return CountRows(torch.stack(rows) if rows else torch.zeros(0, 6, dtype=torch.long), places)


def block_counts(features: Features, select_labels: SelectLabels | None) -> list[BlockCounts]:
    """The counts of every selecting block of a batch, in block order; one wait for the device in all."""
    counts = count_rows(features, select_labels)
    return counts.read(counts.rows.tolist())


def _count_row(placed: PlacedSelection, select_labels: SelectLabels | None) -> Tensor:
    """Valid, selected and own tokens (-1 without a gate), those with an object, of these the selected, slots: (6,)."""
    selection, mask, packing = placed.selection, placed.selection.mask, placed.packing
    none = torch.zeros((), dtype=torch.long, device=mask.device)
    slots = none + (0 if packing is None else packing.num_containers * packing.container_len)
    valid = selection.valid.sum()
    own = none - 1 if selection.own_ratio is None else (selection.own_ratio.double() * valid).round().long()
    if select_labels is None:
        return torch.stack([valid, mask.sum(), own, none, none, slots])
    labels = select_labels[placed.stride] & selection.valid
    return torch.stack([valid, mask.sum(), own, labels.sum(), (mask & labels).sum(), slots])


def add_counts(total: Sequence[BlockCounts], batch: Sequence[BlockCounts]) -> list[BlockCounts]:
    """Block by block sum; an empty `total` is the start."""
    return [one + other for one, other in zip(total, batch, strict=True)] if total else list(batch)
