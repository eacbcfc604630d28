"""Run by name: the rivals compute what they are said to."""

from __future__ import annotations

import torch

from sptcore.models.variants import build_backbone
from sptcore.profiling.forced import forced_selection, randomise_biases
from tests.bench.backbone import draw_masks, main
from tests.bench.rivals import packing_share, use_mask_only, use_pad_to_max


def nano(**settings):
    torch.manual_seed(0)
    model = build_backbone("spt-nano", **settings).eval()
    randomise_biases(model, torch.Generator().manual_seed(0))
    return model


def outputs(model, masks, images):
    with forced_selection(model, masks), torch.inference_mode():
        return model(images).maps["3"]


def test_padding_to_the_longest_changes_no_result() -> None:
    images = torch.randn(4, 3, 160, 192)
    plain, padded = nano(), use_pad_to_max(nano())
    masks = draw_masks(plain, images, 0.25)
    assert torch.allclose(outputs(plain, masks, images), outputs(padded, masks, images), atol=1e-5)


def test_masking_is_swin_where_everything_is_selected_and_differs_elsewhere() -> None:
    images = torch.randn(1, 3, 128, 128)
    settings = {"gate_bias_init": 40.0, "scope": "image_region"}
    plain, masked = nano(**settings), use_mask_only(nano(**settings))
    everything, some = draw_masks(plain, images, 1.0), draw_masks(plain, images, 0.25)
    assert torch.allclose(outputs(plain, everything, images), outputs(masked, everything, images), atol=1e-5)
    assert not torch.allclose(outputs(plain, some, images), outputs(masked, some, images), atol=1e-3)


def test_the_packing_share_is_a_share() -> None:
    model, images = nano(), torch.randn(1, 3, 128, 128)
    assert 0 < packing_share(model, draw_masks(model, images, 0.25), images, passes=1) < 1


def test_the_whole_script_runs(tmp_path, capsys) -> None:
    found = main(["--models", "t", "--batch", "1", "--res", "64x64", "--rounds", "1", "--warmup", "0"])
    assert found["contests"][0]["rows"]["dense"]["x_dense"] == 1.0
    assert "x torchvision" in capsys.readouterr().out
