"""Who is profiled: models and the selections to force on them, each made ready to be counted and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sptcore.models.selectors import FIXED_RATIO
from sptcore.models.variants import AnyBackbone, AnyBackboneConfig, backbone_config, build_backbone
from sptcore.models.vit.config import ViTConfig
from sptcore.profiling.counted import Counted, count_backbone, count_heads
from sptcore.profiling.forced import active_windows, blob_masks, randomise_biases, shift_of, window_masks
from sptcore.profiling.macs import Cost, DetectorShape, backbone_macs, detector_macs, spa_places, stage_grids
from sptcore.profiling.passes import Pass, detector_outputs, inference_pass, random_regions, standing_in, training_pass
from sptcore.profiling.rotation import Rotation, draw_inputs
from sptcore.tasks.detection import DetectionTask
from sptcore.tasks.detector import HEADS, HeadsConfig, build_detector

AUTO_RATIOS = (0.1, 0.22, 0.3, 0.5, 1.0)
DENSE = "dense"
OWN = "own"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Selection:
    """What is forced: a name for the table, and one select ratio a selecting block (none in a dense model)."""

    name: str
    ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A model and the selections it is profiled at. `state`: weights of the backbone, fresh ones where None."""

    name: str
    config: AnyBackboneConfig
    selections: tuple[Selection, ...]
    shape: DetectorShape = field(default_factory=DetectorShape)
    state: dict[str, Tensor] | None = None


def auto_ratios(config: AnyBackboneConfig) -> tuple[float, ...]:
    """The ratios a model is profiled at when nobody says: its own where it selects a stated share."""
    return (config.select_ratio,) if config.selector in FIXED_RATIO else AUTO_RATIOS


def subject(name: str, ratios: Sequence[float] = (), *, categories: int = 80, heads: str = "auto") -> Subject:
    """The variant called `name`, fresh, at uniform `ratios`, with `heads`: "auto" are those training would give it.

    No ratio means `auto_ratios`. Raises UsageError for a name that does not exist.
    """
    config = backbone_config(name)
    found = HeadsConfig.from_dict(DetectionTask().heads_config(heads, name))
    return Subject(name, config, uniform_selections(config, ratios), DetectorShape(found, categories))


def heads_name(heads: HeadsConfig) -> str:
    """What `heads` are called: a name out of HEADS, or "own" for those of no name."""
    return next((name for name, known in HEADS.items() if known == heads), "own")


def uniform_selections(config: AnyBackboneConfig, ratios: Sequence[float]) -> tuple[Selection, ...]:
    """One selection a ratio, the same in every block; the dense one alone for a model that does not select.

    No ratio means `auto_ratios`.
    """
    if not config.num_spa_blocks:
        return (Selection(DENSE),)
    if config.fixed_ratios is not None:
        return (Selection(OWN, config.fixed_ratios),)
    return tuple(
        Selection(f"{ratio:.9g}", (ratio,) * config.num_spa_blocks)
        for ratio in dict.fromkeys(map(float, ratios or auto_ratios(config)))
    )


@dataclass(frozen=True)
class Setting:
    """Where a subject is profiled: scope (backbone | detector), image size in pixels, batch, device, autocast, seed.

    `compiled`: backbones are timed in evaluation as torch.compile makes them; counts and training steps stay eager.
    """

    scope: str
    height: int
    width: int
    batch: int = 1
    device: torch.device = CPU
    amp: str = "off"
    seed: int = 0
    compiled: bool = False

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) as the network sees them: a detector's batch is padded to a multiple of 32."""
        if self.scope == "backbone":
            return self.height, self.width
        return -(-self.height // 32) * 32, -(-self.width // 32) * 32


def inputs_of(setting: Setting) -> tuple[Tensor, ...]:
    """The images that passes of `setting` take in turn: one set on a CPU, on CUDA enough to outgrow its cache."""
    return draw_inputs((setting.batch, 3, *setting.padded), setting.device, setting.seed)


class Built:
    """A subject's network on its device, in evaluation mode: the backbone, in scope `detector` with all around it."""

    def __init__(self, one: Subject, setting: Setting) -> None:
        self.subject = one
        shape, generator = one.shape, torch.Generator().manual_seed(setting.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed)
            self.backbone: AnyBackbone = build_backbone(one.config)
            self.model: nn.Module = self.backbone
            if setting.scope == "detector":
                self.model = build_detector(self.backbone, shape.heads, classes=shape.categories, masks=shape.masks)
        randomise_biases(self.model, generator)
        if one.state is not None:
            self.backbone.load_state_dict(one.state)
        self.model.to(setting.device).eval()

    @property
    def params(self) -> int:
        """Parameters of the whole scope."""
        return sum(parameter.numel() for parameter in self.model.parameters())


class Case:
    """One row of a profile: a network at one selection, with masks and regions drawn from the seed.

    `inputs`: images (B, 3, H, W) that timed passes take in turn, those of `inputs_of` where None. What is counted does
    not depend on them.
    """

    def __init__(
        self, built: Built, selection: Selection, setting: Setting, inputs: Sequence[Tensor] | None = None
    ) -> None:
        self.built, self.selection, self.setting = built, selection, setting
        self.inputs = inputs_of(setting) if inputs is None else tuple(inputs)
        self.images = self.inputs[0]
        generator = torch.Generator().manual_seed(setting.seed + 1)
        height, width = setting.padded
        self.regions = random_regions(1000, height, width, generator).to(setting.device)
        config = built.subject.config
        places = () if isinstance(config, ViTConfig) and config.prunes else spa_places(config)  # these count themselves
        masks = [
            self._mask(place, ratio, generator).to(setting.device)
            for place, ratio in zip(places, selection.ratios, strict=bool(places))
        ]
        self.masks: list[Tensor] | None = masks or None

    def _mask(self, place: tuple[int, int], ratio: float, generator: torch.Generator) -> Tensor:
        """What the block at `place` selects: tokens, or windows where its selector takes these whole."""
        config, (stage, block) = self.built.subject.config, place
        grid = stage_grids(*self.setting.padded)[stage - 1]
        if isinstance(config, ViTConfig) or config.selector != "topk_windows":
            return blob_masks(self.setting.batch, grid, ratio, generator)
        shift_size = shift_of(config, block)
        return window_masks(
            self.setting.batch, grid, ratio, generator, window_size=config.window_size, shift_size=shift_size
        )

    @property
    def name(self) -> str:
        """`"spt-t 0.3"`."""
        return f"{self.built.subject.name} {self.selection.name}"

    def _windows(self) -> list[list[int]] | None:
        """The windows in which each block's mask lies, where blocks attend in windows."""
        config = self.built.subject.config
        if isinstance(config, ViTConfig) or config.attention != "window_gather":
            return None
        return [
            active_windows(mask, window_size=config.window_size, shift_size=shift_of(config, block))
            for (_, block), mask in zip(spa_places(config), self.masks or (), strict=True)
        ]

    def costs(self, *, training: bool = False) -> list[Cost]:
        """MACs by formula for the counts of the masks; in `training` of a forward pass packed as in evaluation."""
        one, (height, width), batch = self.built.subject, self.setting.padded, self.setting.batch
        counts = None if self.masks is None else [mask.flatten(1).sum(1).tolist() for mask in self.masks]
        ratios = self.selection.ratios
        how: dict[str, Any] = {"counts": counts, "windows": self._windows(), "training": training}
        how["packing"] = one.config.eval_packing
        if self.setting.scope == "backbone":
            stages = backbone_macs(one.config, height, width, ratios, batch, **how)
            return [cost for stage in stages for cost in stage.costs]
        return detector_macs(one.config, height, width, ratios, batch, shape=one.shape, **how)

    def count(self, known: dict[object, Counted]) -> dict[str, int]:
        """MACs counted on what runs, by operation (`aten.addmm`); they sum to the MACs of the case.

        `known` remembers what was counted, since the backbone is the same in both scopes.
        """
        one = self.built.subject
        body = (one.name, self.selection.name, self.setting.padded)
        if body not in known:
            known[body] = count_backbone(self.built.backbone, self.images, self.masks)
        parts = [known[body]]
        if self.setting.scope == "detector":
            parts += count_heads(self.built.model, one.shape, self.images).values()
        operations: dict[str, int] = {}
        for part in parts:
            for name, macs in part.by_op.items():
                operations[name] = operations.get(name, 0) + macs
        return operations

    def forward(self, images: Tensor | None = None) -> list[Tensor]:
        """One pass of `images` (B, 3, H, W), by default the first input, through the scope; its outputs."""
        images = self.images if images is None else images
        if self.setting.scope == "backbone":
            return list(self.built.backbone(images).maps.values())
        return detector_outputs(self.built.model, self.built.subject.shape, images, self.regions)

    def inference(self) -> Pass:
        """The pass that is timed in evaluation mode."""
        forward = self._in_turn(self._compiled() if self.setting.compiled else self.forward)
        return inference_pass(self.built.backbone, self.masks, forward, self.setting.amp)

    def _in_turn(self, forward: Callable[[Tensor], list[Tensor]]) -> Callable[[], list[Tensor]]:
        rotation = Rotation(self.inputs)
        return lambda: forward(rotation.next())

    def _compiled(self) -> Callable[[Tensor], list[Tensor]]:
        """`forward` with the backbone compiled; the first call takes as long as the compiler does."""
        model, backbone = self.built.model, self.built.backbone
        compiled: nn.Module = torch.compile(backbone, dynamic=False)  # type: ignore[assignment]

        def forward(images: Tensor) -> list[Tensor]:
            if model is backbone:
                return list(compiled(images).maps.values())
            with standing_in(model, backbone, compiled):
                return self.forward(images)

        return forward

    def training(self) -> Pass:
        """The pass that is timed forward and backward."""
        forward = self._in_turn(self.forward)
        return training_pass(self.built.model, self.built.backbone, self.masks, forward, self.setting.amp)
