"""How the tokens walk through the blocks of a plain ViT: all of them, or fewer and fewer. One table, PRUNINGS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sptcore.models.backbone import PlacedSelection
from sptcore.models.predictor import PredictorLG
from sptcore.models.vit.attention import attend, class_attention
from sptcore.models.vit.block import ViTBlock
from sptcore.models.vit.config import PATCH_SIZE, STAGE, ViTConfig
from sptcore.models.vit.tokens import TokenRow
from sptcore.ops.packing import Packing, plan_packing
from sptcore.ops.selection import Selection, best_tokens, gumbel_select


@dataclass(frozen=True, eq=False)
class Start:
    """What enters the first block: `row` of all cells, `inside` (B, H, W) bool: those of the image.

    `label` (B, H, W) bool for ground-truth selection; `forced`: such labels, one a selecting block, in its place.
    """

    row: TokenRow
    inside: Tensor
    label: Tensor | None = None
    forced: Sequence[Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Walked:
    """What leaves the last block: the class token (B, C), every cell (B, N, C), what was selected, own losses."""

    image: Tensor
    cells: Tensor
    selections: tuple[PlacedSelection, ...] = ()
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class Pruning(nn.Module):
    """Every token in every block: plain ViT. Built as `cls(config)`, called as `pruning(blocks, start) -> Walked`."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config

    def apply_schedule(self, progress: float) -> None:
        """Set what depends on how much of a training run, 0 to 1, is done."""

    def forward(self, blocks: Sequence[ViTBlock], start: Start) -> Walked:
        row = start.row
        for block in blocks:
            row = replace(row, x=block(row.x, row.keys))
        return Walked(row.x[:, 0], row.x[:, 1:])

    def next_counts(self, row: TokenRow, rate: float | None = None) -> list[tuple[int, ...]]:
        """Tokens to keep, one tuple a pruning block with a number for each image of `row`."""
        return list(zip(*(self.config.kept_tokens(count, rate) for count in row.counts), strict=True))


class GroundTruthPruning(Pruning):
    """Fig. 4: object tokens and the class token attend to each other, the rest go on to the feed-forward network."""

    def forward(self, blocks: Sequence[ViTBlock], start: Start) -> Walked:
        row, selections, packing = start.row, [], None
        for index, block in enumerate(blocks):
            if index not in self.config.select_blocks:
                row = replace(row, x=block(row.x, row.keys))
                continue
            if packing is None or start.forced is not None:
                selection = self._select(start, len(selections))
                packing = pack_with_class(selection.mask)
            row = replace(row, x=block(row.x, packing=packing))
            selections.append(placed(selection, index))
        return Walked(row.x[:, 0], row.x[:, 1:], tuple(selections))

    def _select(self, start: Start, number: int) -> Selection:
        label = start.label if start.forced is None else start.forced[number]
        if label is None:
            raise ValueError(f"ground-truth selection needs select_labels for stride {PATCH_SIZE}")
        weight = (label & start.inside).to(torch.promote_types(start.row.x.dtype, torch.float32))
        return Selection(weight * 2 - 1, weight, start.inside, gated=False)


class PredictorPruning(Pruning):
    """DynamicViT: small networks before some blocks decide which tokens go on.

    In training decisions are drawn, all tokens are computed, and dropped ones are masked from the others' attention; in
    evaluation the best int(N x keep) tokens go on and nothing else is computed.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.predictors = nn.ModuleDict({str(index): PredictorLG(config.dim) for index in config.select_blocks})

    def forward(self, blocks: Sequence[ViTBlock], start: Start) -> Walked:
        return self._train(blocks, start) if self.training else self._evaluate(blocks, start)

    def _train(self, blocks: Sequence[ViTBlock], start: Start) -> Walked:
        row, x, keys = start.row, start.row.x, start.row.keys
        alive: Tensor | None = None
        held, weight = torch.zeros_like(x[:, 1:]), row.filled.to(torch.promote_types(x.dtype, torch.float32))
        selections: list[PlacedSelection] = []
        for index, block in enumerate(blocks):
            if index in self.config.select_blocks:
                logits = self._predict(index, x, weight)
                before = torch.ones_like(weight) if alive is None else alive
                alive = weight = gumbel_select(logits, row.filled, threshold=0.5, noise="logistic") * weight
                held = held + x[:, 1:] * (before - alive).unsqueeze(-1)
                selections.append(placed(_decided(logits, alive, start.inside), index))
            if alive is None:
                x = block(x, keys)
            else:
                policy = nn.functional.pad(alive, (1, 0), value=1.0)
                x = block(x, keys, policy=policy, eps=self.config.policy_eps)
        cells = x[:, 1:] if alive is None else held + x[:, 1:] * alive.unsqueeze(-1)
        return Walked(x[:, 0], cells, tuple(selections), {"loss_ratio": self.ratio_loss(selections)})

    def _predict(self, index: int, x: Tensor, weight: Tensor) -> Tensor:
        """log p(keep) - log p(drop) of the tokens of `x` (B, 1 + K, C), whose mean counts those of `weight` (B, K)."""
        return self.predictors[str(index)](x[:, 1:].unsqueeze(1), weight.unsqueeze(1)).squeeze(1)

    def ratio_loss(self, selections: Sequence[PlacedSelection]) -> Tensor:
        """The weight x mean over pruning blocks of mean over images of (share kept - keep_rate ** n) ** 2."""
        terms = []
        for number, one in enumerate(selections, start=1):
            share = one.selection.weight.flatten(1).sum(1) / one.selection.valid.flatten(1).sum(1)
            terms.append((share - self.config.keep_rate**number).square().mean())
        return self.config.ratio_loss_weight * torch.stack(terms).mean()

    def _evaluate(self, blocks: Sequence[ViTBlock], start: Start) -> Walked:
        row, canvas = start.row, None
        wanted = self.next_counts(row)
        selections: list[PlacedSelection] = []
        for index, block in enumerate(blocks):
            if index in self.config.select_blocks:
                counts = wanted[len(selections)]
                logits = self._predict(index, row.x, row.filled)
                canvas, scores = row.onto(canvas), row.on_cells(logits)
                row = row.keep(best(logits, row.filled, counts), counts)
                selections.append(placed(row.selection(start.inside, scores), index))
            row = replace(row, x=block(row.x, row.keys))
        return Walked(row.x[:, 0], row.onto(canvas), tuple(selections))


class ClassAttentionPruning(Pruning):
    """EViT: after the attention of some blocks the tokens the class token attends to least are fused into one.

    In training the keep rate falls with the run (`apply_schedule`); evaluation always uses the config's own.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.train_rate = config.keep_rate

    def apply_schedule(self, progress: float) -> None:
        """1 until the start of `shrink_span`, then half a cosine down to `keep_rate` at its end, then that."""
        self.train_rate = scheduled_rate(progress, self.config.keep_rate, self.config.shrink_span)

    def forward(self, blocks: Sequence[ViTBlock], start: Start) -> Walked:
        row, canvas = start.row, None
        wanted = self.next_counts(row, self.train_rate if self.training else None)
        selections: list[PlacedSelection] = []
        for index, block in enumerate(blocks):
            if index not in self.config.select_blocks:
                row = replace(row, x=block(row.x, row.keys))
                continue
            counts, scores = wanted[len(selections)], None
            if counts == row.counts:
                row = replace(row, x=block(row.x, row.keys))
            else:
                row, attention = _attend(block, row)
                canvas, scores = row.onto(canvas), row.on_cells(attention)
                row = self._drop(row, attention, counts)
                row = replace(row, x=block.feed(row.x))
            selections.append(placed(row.selection(start.inside, scores), index))
        return Walked(row.x[:, 0], row.onto(canvas), tuple(selections))

    def _drop(self, row: TokenRow, attention: Tensor, counts: tuple[int, ...]) -> TokenRow:
        """The `counts` best tokens of each image, and one that is the attention-weighted sum of the others."""
        kept = best(attention, row.filled, counts)
        left = row.keep(kept, counts)
        if not self.config.fuse_token:
            return left
        share = (attention * (row.filled & ~kept)).unsqueeze(-1)
        fused = [count < had for count, had in zip(counts, row.counts, strict=True)]
        return left.append((row.x[:, 1:] * share).sum(1), fused)


def _attend(block: ViTBlock, row: TokenRow) -> tuple[TokenRow, Tensor]:
    """The first half of a block, and what its class token attended to, (B, K)."""
    query, key, value = block.attn.heads(block.norm1(row.x))
    branch = block.attn.join(attend(query, key, value, row.keys))
    return replace(row, x=row.x + block.drop_path(branch)), class_attention(query, key, row.keys)


def best(scores: Tensor, filled: Tensor, counts: Sequence[int]) -> Tensor:
    """The `counts` best of each row of `scores` (B, K) among the filled slots, as a bool mask."""
    wanted = torch.tensor(list(counts), device=scores.device)
    return best_tokens(scores.unsqueeze(1), filled.unsqueeze(1), wanted).squeeze(1)


def pack_with_class(mask: Tensor) -> Packing:
    """The tokens of `mask` (B, H, W) and the class token, one container an image, as long as the fullest needs."""
    tokens = nn.functional.pad(mask.flatten(1), (1, 0), value=True).unsqueeze(1)
    return plan_packing(tokens, 1, 0, "aligned", container_len=int(tokens.sum(-1).max()))


def scheduled_rate(progress: float, keep_rate: float, span: tuple[float, float]) -> float:
    """EViT's keep rate when the share `progress` of a run is done (its helpers.py: epochs 10 and 100 of 300)."""
    first, last = span
    if progress < first:
        return 1.0
    if progress >= last:
        return keep_rate
    return keep_rate + (1 - keep_rate) * (math.cos(math.pi * (progress - first) / (last - first)) + 1) / 2


def placed(selection: Selection, index: int) -> PlacedSelection:
    """A selection made in block `index`, counted from 0."""
    return PlacedSelection(selection, STAGE, index, PATCH_SIZE)


def _decided(logits: Tensor, weight: Tensor, inside: Tensor) -> Selection:
    return Selection(logits.view(inside.shape), weight.view(inside.shape), inside, gated=False)


PRUNINGS: dict[str, type[Pruning]] = {
    "none": Pruning,
    "ground_truth": GroundTruthPruning,
    "predictor": PredictorPruning,
    "class_attention": ClassAttentionPruning,
}
