"""An image classifier: backbone, class token or mean of the last map over the image's tokens, one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sptcore.models.backbone import Features, valid_tokens
from sptcore.models.bodies import AnyBackbone
from sptcore.models.layers import init_weights


@dataclass(frozen=True, eq=False)
class Classified:
    """Logits (B, classes), and the features and selections they come from."""

    logits: Tensor
    features: Features


def mean_of_tokens(last_map: Tensor, image_sizes: Tensor | None = None) -> Tensor:
    """The mean of stage 4's map (B, C, H, W) over each image's tokens, without those of batch padding -> (B, C)."""
    tokens = last_map.permute(0, 2, 3, 1)  # (B, H, W, C)
    valid = valid_tokens(tokens, image_sizes, 32).unsqueeze(-1)
    return (tokens * valid).sum((1, 2)) / valid.sum((1, 2))


class Classifier(nn.Module):
    """One linear layer on a class token, or on the mean of stage 4's map, which batch padding does not enter."""

    def __init__(self, backbone: AnyBackbone, num_classes: int) -> None:
        super().__init__()
        if not backbone.config.is_plain and 4 not in backbone.config.out_stages:
            raise ValueError("a classifier needs stage 4 in out_stages")
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.channels[3], num_classes)
        self.head.apply(init_weights)

    def forward(
        self,
        images: Tensor,
        image_sizes: Tensor | None = None,
        select_labels: dict[int, Tensor] | None = None,
    ) -> Classified:
        """As the backbone's forward; -> Classified."""
        features = self.backbone(images, image_sizes, select_labels)
        if features.pooled is not None:
            return Classified(self.head(features.pooled), features)
        return Classified(self.head(mean_of_tokens(features.maps["3"], image_sizes)), features)
