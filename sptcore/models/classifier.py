"""An image classifier: backbone, mean of the last map over the image's tokens, one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sptcore.models.backbone import Features, HierarchicalBackbone, valid_tokens
from sptcore.models.layers import init_weights


@dataclass(frozen=True, eq=False)
class Classified:
    """Logits (B, classes), and the features and selections they come from."""

    logits: Tensor
    features: Features


class Classifier(nn.Module):
    """Swin's head on any backbone that returns the map of stage 4; batch padding does not enter the mean."""

    def __init__(self, backbone: HierarchicalBackbone, num_classes: int) -> None:
        super().__init__()
        if 4 not in backbone.config.out_stages:
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
        tokens = features.maps["3"].permute(0, 2, 3, 1)  # (B, H, W, C)
        valid = valid_tokens(tokens, image_sizes, 32).unsqueeze(-1)
        mean = (tokens * valid).sum((1, 2)) / valid.sum((1, 2))
        return Classified(self.head(mean), features)
