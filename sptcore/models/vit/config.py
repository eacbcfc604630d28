"""ViTConfig: everything that makes one plain vision transformer differ from another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from sptcore.errors import UsageError, did_you_mean

BODY = "vit"
PATCH_SIZE = 16
STAGE = 3  # where the only grid, of stride 16, stands among the four of a hierarchical backbone
VIT_SELECTORS = ("none", "ground_truth", "predictor", "class_attention")


@dataclass(frozen=True)
class ViTConfig:
    """A plain ViT: patches of 16, a class token, learned absolute positions. Raises UsageError for wrong values.

    `selector`: none (ViT) | ground_truth (Fig. 4) | predictor (DynamicViT) | class_attention (EViT), in the blocks
    `select_blocks`, counted from 0. `keep_rate`: of the first pruning block; DynamicViT keeps its powers, EViT that
    share of what is there at each. `position_grid`: rows and columns that the positions are learned for.
    `ratio_loss_weight` and `policy_eps` belong to the predictor, `fuse_token` to class attention; so does
    `shrink_span`: the shares of a run between which its keep rate falls from 1 to `keep_rate` in training.
    """

    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    position_grid: tuple[int, int] = (14, 14)
    selector: str = "none"
    select_blocks: tuple[int, ...] = ()
    keep_rate: float = 0.7
    ratio_loss_weight: float = 2.0
    policy_eps: float = 1e-6
    fuse_token: bool = True
    shrink_span: tuple[float, float] = (1 / 30, 1 / 3)

    def __post_init__(self) -> None:
        for name in ("position_grid", "select_blocks", "shrink_span"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.selector not in VIT_SELECTORS:
            raise UsageError(
                f"selector = {self.selector!r} does not exist in a ViT; choose from {', '.join(VIT_SELECTORS)}",
                hint=did_you_mean(self.selector, VIT_SELECTORS),
            )
        blocks, span = self.select_blocks, self.shrink_span
        faults = {
            "dim, depth and heads must be at least 1": min(self.dim, self.depth, self.heads) < 1,
            "dim must divide by the number of heads": self.heads > 0 and self.dim % self.heads != 0,
            "position_grid needs two positive entries": len(self.position_grid) != 2 or min(self.position_grid) < 1,
            f"select_blocks must be ascending blocks out of 0..{self.depth - 1}": list(blocks)
            != sorted(set(blocks) & set(range(self.depth))),
            "select_blocks and selector belong together": bool(blocks) == (self.selector == "none"),
            "keep_rate must lie in (0, 1]": not 0 < self.keep_rate <= 1,
            "policy_eps and ratio_loss_weight must not be negative": min(self.policy_eps, self.ratio_loss_weight) < 0,
            "drop_path must lie in [0, 1)": not 0 <= self.drop_path < 1,
            "shrink_span needs two ascending shares of a run": len(span) != 2 or not 0 <= span[0] <= span[1] <= 1,
        }
        for fault, present in faults.items():
            if present:
                raise UsageError(f"backbone: {fault}")

    @property
    def is_plain(self) -> bool:
        """One grid from the first block to the last, and a class token for the image."""
        return True

    @property
    def takes_swin(self) -> bool:
        """Whether weights of a Swin fit."""
        return False

    @property
    def out_stages(self) -> tuple[int, ...]:
        """The stage whose map is returned."""
        return (STAGE,)

    @property
    def channels(self) -> tuple[int, ...]:
        """C, the same at every stage, of which only the third has blocks."""
        return (self.dim,) * 4

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each of four stages."""
        return tuple(self.depth if stage == STAGE else 0 for stage in range(1, 5))

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Heads of each of four stages."""
        return tuple(self.heads if stage == STAGE else 0 for stage in range(1, 5))

    @property
    def spa_blocks(self) -> tuple[int, ...]:
        """Selecting blocks of each of four stages."""
        return tuple(self.num_spa_blocks if stage == STAGE else 0 for stage in range(1, 5))

    @property
    def num_spa_blocks(self) -> int:
        """Blocks that select."""
        return len(self.select_blocks)

    @property
    def select_places(self) -> tuple[tuple[int, int], ...]:
        """(stage from 1, block from 0) of every selecting block, in network order."""
        return tuple((STAGE, block) for block in self.select_blocks)

    @property
    def attention(self) -> str:
        """The mechanism of every block."""
        return "global"

    @property
    def select_ratio(self) -> float:
        """The share that is kept where the first pruning block keeps one."""
        return self.keep_rate

    @property
    def uses_gates(self) -> bool:
        """Whether there are gates, whose scores are supervised; a ViT has none."""
        return False

    @property
    def entry_stage(self) -> int | None:
        """The stage on whose output s0 is read: none."""
        return None

    @property
    def eval_packing(self) -> str | None:
        """How the selected tokens are packed, None where nothing is."""
        return "aligned" if self.selector == "ground_truth" else None

    @property
    def packing_in_use(self) -> str | None:
        """As `eval_packing`."""
        return self.eval_packing

    @property
    def prunes(self) -> bool:
        """Whether tokens leave for good, as many as the keep rate says."""
        return self.selector in ("predictor", "class_attention")

    def kept_tokens(self, tokens: int, rate: float | None = None) -> tuple[int, ...]:
        """How many of an image's `tokens` each pruning block keeps, a fused token counted as one; at `rate` if given.

        DynamicViT: int(tokens x rate ** n) at the n-th. EViT: ceil(rate x those that are there). At least 1 each.
        """
        share = Fraction(str(self.keep_rate if rate is None else rate))  # exact: int(100 * .7 ** 2) is 49, not 48
        if self.selector == "predictor":
            return tuple(max(1, int(tokens * share**n)) for n in range(1, len(self.select_blocks) + 1))
        kept, there = [], tokens
        for _ in self.select_blocks if self.prunes else ():
            kept.append(max(1, math.ceil(there * share)))
            there = kept[-1] + (self.fuse_token and kept[-1] < there)
        return tuple(kept)

    @property
    def fixed_ratios(self) -> tuple[float, ...] | None:
        """The share of tokens each pruning block keeps, about, where the config alone sets it; None elsewhere."""
        rates = (self.keep_rate**number for number in range(1, len(self.select_blocks) + 1))
        return tuple(rates) if self.prunes else None

    def with_outputs(self, stages: tuple[int, ...]) -> ViTConfig:
        """Itself: whatever stages are asked for, what stands behind makes them of the one map."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON and TOML values, told from other backbones by its `body`."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"body": BODY, **plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ViTConfig:
        """The inverse of `to_dict`. Raises UsageError for a key that is no field."""
        known = [field.name for field in fields(cls)]
        given = {key: value for key, value in values.items() if key != "body"}
        for key in given:
            if key not in known:
                raise UsageError(f"backbone: {key!r} is not a setting of a ViT", hint=did_you_mean(key, known))
        return cls(**given)
