"""The simple feature pyramid of ViTDet (arXiv 2203.16527, section 3): four strides from the one map of a plain ViT."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each cell, (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """Levels "0" to "3" (strides 4 to 32), those wanted, from the map "2" of stride 16, `channels` each.

    Two deconvolutions, one, nothing, a pooling; then 1 x 1, norm, 3 x 3, norm. `extra`: a level more behind the last.
    """

    source = ("2",)

    def __init__(
        self, dim: int, levels: Sequence[str], channels: int, *, extra_blocks: ExtraFPNBlock | None = None
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({level: _branch(dim, level, channels) for level in levels})
        self.extra_blocks = extra_blocks

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"2": (B, dim, H, W)} -> levels by name, finest first, as torchvision's pyramid gives them."""
        levels = {level: branch(maps["2"]) for level, branch in self.branches.items()}
        if self.extra_blocks is None:
            return OrderedDict(levels)
        results, names = self.extra_blocks(list(levels.values()), list(maps.values()), list(levels))
        return OrderedDict(zip(names, results, strict=True))


def _branch(dim: int, level: str, channels: int) -> nn.Sequential:
    """The way from the map to one level."""
    half, quarter = dim // 2, dim // 4
    scale: dict[str, tuple[int, list[nn.Module]]] = {
        "0": (
            quarter,
            [
                nn.ConvTranspose2d(dim, half, 2, stride=2),
                ChannelNorm(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
            ],
        ),
        "1": (half, [nn.ConvTranspose2d(dim, half, 2, stride=2)]),
        "2": (dim, []),
        "3": (dim, [nn.MaxPool2d(2, stride=2)]),
    }
    entering, layers = scale[level]
    return nn.Sequential(
        *layers,
        nn.Conv2d(entering, channels, 1, bias=False),
        ChannelNorm(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        ChannelNorm(channels),
    )
