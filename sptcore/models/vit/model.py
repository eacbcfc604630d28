"""The plain vision transformer: patches, a class token, learned positions, blocks, one map of stride 16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptcore.models.backbone import Features, valid_tokens
from sptcore.models.layers import init_weights
from sptcore.models.vit.block import NORM_EPS, ViTBlock
from sptcore.models.vit.config import PATCH_SIZE, STAGE, ViTConfig
from sptcore.models.vit.pruning import PRUNINGS, Start
from sptcore.models.vit.tokens import TokenRow

MAP = str(STAGE - 1)


class PatchEmbed(nn.Module):
    """Embed patches of 16 x 16: (B, 3, H, W) -> (B, ceil(H/16), ceil(W/16), C), zeros added at right and bottom."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % PATCH_SIZE or width % PATCH_SIZE:
            images = F.pad(images, (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE))
        return self.proj(images).permute(0, 2, 3, 1)


class ViT(nn.Module):
    """ViT (arXiv 2010.11929) and what prunes its tokens, any input size. Parameters are named as timm and DeiT do.

    `forced`: labels that a profile sets, one a selecting block (`sptcore.profiling.forced`), None otherwise.
    """

    forced: Sequence[Tensor] | None = None

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.position_grid
        self.patch_embed = PatchEmbed(config.dim)
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, config.dim), std=0.02))
        positions = torch.empty(1, 1 + rows * columns, config.dim)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(positions, std=0.02))
        self.blocks = nn.ModuleList(ViTBlock(config, index) for index in range(config.depth))
        self.pruning = PRUNINGS[config.selector](config)
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.apply(init_weights)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the returned map."""
        return (self.config.dim,)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of the returned map."""
        return (PATCH_SIZE,)

    def apply_schedule(self, progress: float) -> None:
        """Tell the model how much of a training run, 0 to 1, is done; a function of the step, so nothing is saved."""
        self.pruning.apply_schedule(progress)

    def forward(
        self,
        images: Tensor,
        image_sizes: Tensor | None = None,
        select_labels: dict[int, Tensor] | None = None,
    ) -> Features:
        """Normalised `images` (B, 3, H, W) -> Features with the map of stride 16 and the class token as `pooled`.

        `image_sizes` (B, 2) int [height, width]: the part of each image that is not batch padding. Tokens of padding
        are attended to by nobody and pruned first. `select_labels`: bool grids by stride, for ground truth.
        """
        grid = self.patch_embed(images)
        walked = self.pruning(list(self.blocks), self._start(grid, image_sizes, select_labels))  # type: ignore[arg-type]
        tokens = self.norm(torch.cat([walked.image.unsqueeze(1), walked.cells], 1))
        output = tokens[:, 1:].unflatten(1, (grid.shape[1], grid.shape[2])).permute(0, 3, 1, 2)
        return Features({MAP: output}, walked.selections, losses=walked.losses, pooled=tokens[:, 0])

    def _start(self, grid: Tensor, image_sizes: Tensor | None, select_labels: dict[int, Tensor] | None) -> Start:
        """Class token and positions added to the patches (B, H, W, C)."""
        batch, height, width, _ = grid.shape
        inside = valid_tokens(grid, image_sizes, PATCH_SIZE)
        sizes = _token_sizes(image_sizes, (height, width), batch)
        label = None if select_labels is None else select_labels.get(PATCH_SIZE)
        if label is not None and label.shape != grid.shape[:3]:
            shapes = f"{tuple(label.shape)}, the grid of that stride is {tuple(grid.shape[:3])}"
            raise ValueError(f"select_labels[{PATCH_SIZE}] is {shapes}")
        first = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        x = torch.cat([first, (grid + self._positions(sizes, (height, width))).flatten(1, 2)], 1)
        counts = [rows * columns for rows, columns in sizes]
        valid = inside.flatten(1) if min(counts) < height * width else None
        return Start(TokenRow.of_grid(x, valid, counts), inside, label, self.forced)

    def _positions(self, sizes: Sequence[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
        """(B or 1, H, W, C): each image has the positions of its own grid, whatever padding lies beside it."""
        known = {size: self._resized(size) for size in sorted(set(sizes))}
        if len(known) == 1 and sizes[0] == grid:
            return known[sizes[0]]
        padded = {
            (rows, columns): F.pad(one, (0, 0, 0, grid[1] - columns, 0, grid[0] - rows))
            for (rows, columns), one in known.items()
        }
        return torch.cat([padded[size] for size in sizes])

    def _resized(self, size: tuple[int, int]) -> Tensor:
        """The learned positions, (1, h, w, C), brought to another grid by bicubic interpolation."""
        learned = self.pos_embed[:, 1:].unflatten(1, self.config.position_grid)
        if size == self.config.position_grid:
            return learned
        resized = F.interpolate(learned.permute(0, 3, 1, 2), size=size, mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)


def _token_sizes(image_sizes: Tensor | None, grid: tuple[int, int], batch: int) -> list[tuple[int, int]]:
    """Rows and columns of tokens of each image inside the grid of the batch."""
    if image_sizes is None:
        return [grid] * batch
    return [
        (min(-(-int(height) // PATCH_SIZE), grid[0]), min(-(-int(width) // PATCH_SIZE), grid[1]))
        for height, width in image_sizes.tolist()
    ]
