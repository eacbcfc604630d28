"""The classifier's head."""

from __future__ import annotations

import pytest
import torch

from sptcore.models.classifier import Classifier
from sptcore.models.variants import build_backbone
from tests.support.networks import tokens
from tests.support.numerics import assert_same


def test_the_mean_is_over_the_tokens_of_the_image():
    model = Classifier(build_backbone("swin-nano", out_stages=(4,)), 5).eval()
    sizes = torch.tensor([[64, 96], [64, 33]])
    with torch.no_grad():
        answer = model(tokens(2, 3, 64, 96), sizes)
        last = answer.features.maps["3"]
        assert_same(answer.logits[0], model.head(last[0].mean((1, 2))), tolerance=1e-6)
        assert_same(answer.logits[1], model.head(last[1, :, :, :2].mean((1, 2))), tolerance=1e-6)


def test_it_needs_the_last_map():
    with pytest.raises(ValueError, match="stage 4"):
        Classifier(build_backbone("swin-nano", out_stages=(3,)), 5)
