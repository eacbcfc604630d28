"""BackboneConfig: everything that makes one backbone differ from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sptcore.errors import UsageError, did_you_mean
from sptcore.ops.packed_attention import BIASES, SCOPES
from sptcore.ops.packing import MODES
from sptcore.ops.selection import NOISES

STRIDES = (4, 8, 16, 32)
BYPASS_NAMES = ("identity", "proj", "skip_block", "fast_mlp")
FFN_NAMES = ("all", "selected")
SCORE_NAMES = ("gate", "l2")
_OLDEST = (("attention", "spa"),)  # values of later settings that older descriptions imply


@dataclass(frozen=True)
class BackboneConfig:
    """A Swin or SPT backbone of four stages (strides 4, 8, 16, 32). Raises UsageError for values that do not exist.

    `num_spa_blocks` blocks, counted from the last backwards, select and pack (paper, Table 6); 0 is Swin.
    `attention` of those blocks: spa | window_gather (within Swin's windows). `selector`: gate | ground_truth | topk |
    topk_windows | random | all. `select_threshold` is a probability; `tau` and `noise` (gumbel |
    logistic | none) act in training only; `select_ratio` belongs to topk, topk_windows and random,
    `topk_score` (gate | l2) to topk.
    `score_propagation`: a stage's scores are raised by the finer stage's (Eq. 4).
    `train_packing`, `eval_packing`: stream | aligned. `container_len` None is window_size ** 2.
    `scope`: image | image_region | image_window. `rpb`, the position bias of packed blocks: spatial | slot | none.
    `bypass` of unselected tokens: identity | proj (Eq. 9 to the letter) | skip_block | fast_mlp (DynamicSwin).
    `ffn`: all (paper) | selected (ours; the same as skip_block).
    `drop_path`: rate of the last block, rising linearly from 0. `out_stages`: the stages 1..4 whose map is returned.
    `predictor_blocks`: DynamicSwin, the blocks of stage 3 (from 0) whose predictor chooses the tokens that take the
    full feed-forward network, a share `keep_ratios` at each; the selecting blocks are these. `deformable_stages`: DAT,
    the stages whose odd blocks attend at deformed places; their other blocks are not shifted.
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    drop_path: float = 0.2
    num_spa_blocks: int = 0
    attention: str = "spa"
    selector: str = "gate"
    select_threshold: float = 0.01
    tau: float = 1.0
    noise: str = "gumbel"
    gate_bias_init: float = 0.0
    min_tokens_per_image: int = 0
    select_ratio: float = 0.5
    topk_score: str = "gate"
    score_propagation: bool = True
    train_packing: str = "stream"
    eval_packing: str = "aligned"
    container_len: int | None = None
    scope: str = "image"
    rpb: str = "spatial"
    bypass: str = "identity"
    ffn: str = "all"
    out_stages: tuple[int, ...] = (1, 2, 3, 4)
    predictor_blocks: tuple[int, ...] = ()
    keep_ratios: tuple[float, ...] = ()
    deformable_stages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("depths", "num_heads", "out_stages", "predictor_blocks", "keep_ratios", "deformable_stages"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_words()
        self._check_numbers()

    def _check_words(self) -> None:
        from sptcore.models.attention import ATTENTIONS
        from sptcore.models.selectors import SELECTORS

        known = {
            "attention": tuple(ATTENTIONS),
            "selector": tuple(SELECTORS),
            "noise": NOISES,
            "topk_score": SCORE_NAMES,
            "train_packing": MODES,
            "eval_packing": MODES,
            "scope": SCOPES,
            "rpb": BIASES,
            "bypass": BYPASS_NAMES,
            "ffn": FFN_NAMES,
        }
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise UsageError(
                    f"{name} = {getattr(self, name)!r} does not exist; choose from {', '.join(words)}",
                    hint=did_you_mean(getattr(self, name), words),
                )
        if self.bypass == "proj" and self.ffn == "selected":
            raise UsageError("ffn = 'selected' skips the block for unselected tokens; bypass = 'proj' does not")
        if self.attention == "window_gather" and self.rpb == "none":
            raise UsageError(
                "attention = 'window_gather' has the position biases of Swin's windows; rpb = 'none' is for spa"
            )

    def _check_numbers(self) -> None:
        faults = {
            "depths and num_heads need four positive entries": len(self.depths) != 4
            or len(self.num_heads) != 4
            or min(*self.depths, *self.num_heads) < 1,
            "embed_dim must divide by the number of heads in every stage": any(
                self.embed_dim * 2**stage % heads for stage, heads in enumerate(self.num_heads)
            ),
            "window_size must be at least 1": self.window_size < 1,
            f"num_spa_blocks must lie in 0..{sum(self.depths)}": not 0 <= self.num_spa_blocks <= sum(self.depths),
            "select_threshold and select_ratio must lie in [0, 1]": not (
                0 <= self.select_threshold <= 1 and 0 <= self.select_ratio <= 1
            ),
            "tau must be positive": self.tau <= 0,
            "drop_path must lie in [0, 1)": not 0 <= self.drop_path < 1,
            "min_tokens_per_image must not be negative": self.min_tokens_per_image < 0,
            "rpb = 'slot' needs container_len = window_size ** 2": self.rpb == "slot"
            and self.packed_len != self.window_size**2,
            "container_len must be at least 1": self.packed_len < 1,
            "out_stages must be ascending stages out of 1..4": not self.out_stages
            or list(self.out_stages) != sorted(set(self.out_stages) & {1, 2, 3, 4}),
            "deformable_stages must be ascending stages out of 1..4, and attention may not name them too": list(
                self.deformable_stages
            )
            != sorted(set(self.deformable_stages) & {1, 2, 3, 4})
            or self.attention == "deformable",
            **self._predictor_faults(),
            "deformable_stages attend to all tokens: num_spa_blocks must be 0 with them": bool(self.deformable_stages)
            and self.num_spa_blocks > 0,
            "attention = 'window' attends to all tokens: num_spa_blocks = 0 says so": self.attention == "window"
            and self.num_spa_blocks > 0
            and not self.predictor_blocks,
        }
        for fault, present in faults.items():
            if present:
                raise UsageError(f"backbone: {fault}")

    def _predictor_faults(self) -> dict[str, bool]:
        blocks, ratios = self.predictor_blocks, self.keep_ratios
        used, depth = bool(blocks), self.depths[2] if len(self.depths) == 4 else 0
        return {
            f"predictor_blocks must be ascending blocks of stage 3, 0..{depth - 1}": list(blocks)
            != sorted(set(blocks) & set(range(depth))),
            "keep_ratios needs a share in [0, 1] for each of predictor_blocks": len(ratios) != len(blocks)
            or not all(0 <= ratio <= 1 for ratio in ratios),
            "selector = 'predictor', bypass = 'fast_mlp' and predictor_blocks go together": (
                (self.selector == "predictor") != used or (self.bypass == "fast_mlp") != used
            ),
            "with predictor_blocks attention is 'window'": used and self.attention != "window",
            f"with predictor_blocks num_spa_blocks is their number, {len(blocks)}": used
            and self.num_spa_blocks != len(blocks),
        }

    @property
    def is_plain(self) -> bool:
        """Whether there is one grid from the first block to the last, and a class token, as in a ViT: no."""
        return False

    @property
    def packed_len(self) -> int:
        """L: slots of a container."""
        return self.window_size**2 if self.container_len is None else self.container_len

    @property
    def packing_in_use(self) -> str | None:
        """How an evaluation packs the selected tokens; None where nothing is packed (dense, or within windows)."""
        packs = self.num_spa_blocks and self.attention == "spa" and not self.predictor_blocks
        return self.eval_packing if packs else None

    @property
    def channels(self) -> tuple[int, ...]:
        """C of each of the four stages."""
        return tuple(self.embed_dim * 2**stage for stage in range(4))

    @property
    def spa_blocks(self) -> tuple[int, ...]:
        """How many of each stage's blocks select: its last ones pack, with predictors those of stage 3 decide."""
        if self.predictor_blocks:
            return (0, 0, len(self.predictor_blocks), 0)
        counts, left = [], self.num_spa_blocks
        for depth in reversed(self.depths):
            counts.append(min(depth, left))
            left -= counts[-1]
        return tuple(reversed(counts))

    @property
    def select_places(self) -> tuple[tuple[int, int], ...]:
        """(stage from 1, block from 0) of every selecting block, in network order."""
        if self.predictor_blocks:
            return tuple((3, block) for block in self.predictor_blocks)
        return tuple(
            (stage, block)
            for stage, (depth, count) in enumerate(zip(self.depths, self.spa_blocks, strict=True), start=1)
            for block in range(depth - count, depth)
        )

    def is_dynamic(self, stage: int, block: int) -> bool:
        """Whether `block` (from 0) of `stage` (1..4) has two feed-forward networks: from the first predictor on."""
        return stage == 3 and bool(self.predictor_blocks) and block >= self.predictor_blocks[0]

    def deforms(self, stage: int, block: int) -> bool:
        """Whether `block` (from 0) of `stage` (1..4) attends at deformed places."""
        return stage in self.deformable_stages and block % 2 == 1

    @property
    def fixed_ratios(self) -> tuple[float, ...] | None:
        """The select ratio of each selecting block where the config alone sets it, so that none can be forced."""
        return self.keep_ratios or None

    @property
    def takes_swin(self) -> bool:
        """Whether weights of a Swin of the same size fit: all but what selects and the short ways."""
        return not self.deformable_stages

    def stage_of(self, dim: int) -> int:
        """The stage (1..4) of `dim` channels. Raises ValueError when there is none."""
        if dim not in self.channels:
            raise ValueError(f"no stage has {dim} channels, they are {self.channels}")
        return self.channels.index(dim) + 1

    @property
    def first_spa_stage(self) -> int | None:
        """The first stage (1..4) with an SPA block, None for Swin."""
        return next((stage for stage, count in enumerate(self.spa_blocks, start=1) if count), None)

    @property
    def uses_gates(self) -> bool:
        """Whether SPA blocks have gate layers, so that there are scores to propagate and to supervise."""
        return self.selector == "gate" or (self.selector == "topk" and self.topk_score == "gate")

    @property
    def entry_stage(self) -> int | None:
        """The stage (1..4) on whose output s0 is read: the one before the first SPA stage (Eq. 1); None without s0."""
        first = self.first_spa_stage
        if first is None or first == 1 or not self.uses_gates or not self.score_propagation:
            return None
        return first - 1

    def with_outputs(self, stages: tuple[int, ...]) -> BackboneConfig:
        """The same backbone returning the maps of these stages only: a norm nobody reads would get no gradient."""
        return replace(self, out_stages=stages)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON and TOML values; what is None or empty is left out, as older descriptions have it."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in plain.items() if value not in (None, []) and (key, value) not in _OLDEST}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneConfig:
        """The inverse of `to_dict`. Raises UsageError for a key that is no field."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise UsageError(f"backbone: {key!r} is not a setting", hint=did_you_mean(key, known))
        return cls(**values)
