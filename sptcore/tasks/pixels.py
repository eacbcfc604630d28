"""From stored pixels to network input, the same in every task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)


class Normalise(nn.Module):
    """uint8 pixels to network input on the device: ImageNet mean and deviation, then zero in the batch padding."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """(B, 3, H, W) uint8 or float in 0..255 -> float32; `sizes` are (height, width) inside the padding."""
        result = self.whole(images)
        for image, (height, width) in zip(result, sizes, strict=True):
            image[:, height:].zero_()
            image[:, :, width:].zero_()
        return result

    def whole(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or float in 0..255 without any padding -> float32."""
        return (images.float() - self.mean) / self.std
