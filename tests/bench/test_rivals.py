"""Run by name: the rivals compute what they are said to."""

from __future__ import annotations

import functools
import json

import torch

from sptcore.models.variants import build_backbone
from sptcore.profiling import rotation
from sptcore.profiling.forced import forced_selection, randomise_biases
from tests.bench import backbone, contest, detector, rivals, training_step
from tests.bench.contest import draw_masks
from tests.bench.rivals import packing_shares, use_mask_only, use_pad_to_max


def nano(**settings):
    torch.manual_seed(0)
    model = build_backbone("spt-nano", **settings).eval()
    randomise_biases(model, torch.Generator().manual_seed(0))
    return model


def outputs(model, masks, images):
    with forced_selection(model, masks), torch.inference_mode():
        return model(images).maps["3"]


def test_padding_to_the_longest_changes_no_result(monkeypatch) -> None:
    monkeypatch.setattr(rivals, "PIECE_TOKENS", 32)  # several pieces of two containers each
    images = torch.randn(4, 3, 160, 192)
    plain, padded = nano(), use_pad_to_max(nano())
    masks = draw_masks(plain, images, 0.25)
    assert torch.allclose(outputs(plain, masks, images), outputs(padded, masks, images), atol=1e-5)


def test_padding_to_the_longest_works_in_pieces_as_packing_does(monkeypatch) -> None:
    """A rival whose temporaries leave the cache would lose for a reason that is none of its own."""
    model, images = nano(), torch.randn(4, 3, 160, 192)
    calls = rivals.attention_parts(model, draw_masks(model, images, 0.25)[0], 0)
    sizes: list[int] = []
    inner = rivals.PadToMax.attend
    monkeypatch.setattr(rivals, "PIECE_TOKENS", 32)
    monkeypatch.setattr(
        rivals.PadToMax, "attend", lambda self, *given: (sizes.append(len(given[0])), inner(self, *given))[1]
    )
    calls["pad-to-max"]()
    assert len(sizes) > 2
    assert max(sizes) == 32


def test_masking_is_swin_where_everything_is_selected_and_differs_elsewhere() -> None:
    images = torch.randn(1, 3, 128, 128)
    settings = {"gate_bias_init": 40.0, "scope": "image_region"}
    plain, masked = nano(**settings), use_mask_only(nano(**settings))
    everything, some = draw_masks(plain, images, 1.0), draw_masks(plain, images, 0.25)
    assert torch.allclose(outputs(plain, everything, images), outputs(masked, everything, images), atol=1e-5)
    assert not torch.allclose(outputs(plain, some, images), outputs(masked, some, images), atol=1e-3)


def test_the_packing_share_is_a_share() -> None:
    model, images = nano(), torch.randn(1, 3, 128, 128)
    shares = packing_shares(model, draw_masks(model, images, 0.25), images, passes=1)
    assert min(shares.values()) > 0
    assert sum(shares.values()) < 1


SMALL = ["--models", "t", "--res", "64x64", "--rounds", "1", "--warmup", "0"]


def test_the_whole_script_runs(tmp_path, capsys) -> None:
    found = backbone.main([*SMALL, "--batch", "4", "--json", str(tmp_path / "b.json")])
    assert found["contests"][0]["rows"]["dense"]["x_dense"] == 1.0
    assert found["contests"][0]["attention_part"]["pad-to-max"]["x_pad-to-max"] == 1.0
    assert json.loads((tmp_path / "b.json").read_text())["commit"] == found["commit"]
    assert "x torchvision" in capsys.readouterr().out


def test_compiled_rivals_say_how_long_the_compiler_took_and_how_many_graphs_it_made(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    found = backbone.main([*SMALL, "--batch", "1", "--compiled"])
    rows = found["contests"][0]["rows"]
    compiled = {name: row["graphs"] for name, row in rows.items() if "graphs" in row}
    ours = {f"{name}, compiled": 1 for name in ("dense", "spt 0.25", "spt 0.25, ffn selected")}
    assert compiled.pop("torchvision, compiled") > 0
    assert compiled == ours
    assert all(row["compile_s"] > 0 for name, row in rows.items() if name.endswith(", compiled"))
    assert "spt 0.25, ffn selected, compiled: compiled in " in capsys.readouterr().out


def test_every_rival_takes_the_inputs_of_a_gpu_in_turn(monkeypatch, capsys) -> None:
    """Where there are four of them; the dense one, torchvision's and a training step tell whom they meet."""
    monkeypatch.setattr(rotation, "sets_needed", lambda device, size: 4)
    options = contest.parser("", models="t", batch="1").parse_args(["--res", "64x64"])
    inputs = contest.inputs_of(options, 1)
    met: list[int] = []

    def watch(module, given):
        met.append(next(number for number, one in enumerate(inputs) if one is given[0]))

    rivals_of_t = backbone.Contest("t", inputs)
    steps = training_step.Rivals("t", inputs)
    for model in (rivals_of_t.dense, rivals_of_t.theirs.features, steps.spt):
        model.register_forward_pre_hook(watch)
    for call in (rivals_of_t.calls["dense"], rivals_of_t.calls["torchvision"], steps.whole()["spt 0.25"]):
        for _ in range(5):
            call()
        assert met == [0, 1, 2, 3, 0]
        met.clear()
    found = detector.main([*SMALL, "--batch", "1"])
    assert found["contests"][0]["input_sets"] == 4
    assert "4 input sets in turn" in capsys.readouterr().out


def test_a_training_step_with_less_memory_where_blocks_are_recomputed(capsys) -> None:
    found = training_step.main([*SMALL, "--batch", "2", "--res", "192x160"])
    pair, whole = (contest["rows"] for contest in found["contests"])
    assert pair["dense"]["x_dense"] == whole["torchvision"]["x_torchvision"] == 1.0
    assert 0 < whole["spt 0.25, recomputed"]["peak_bytes"] < whole["spt 0.25"]["peak_bytes"]
    assert "x torchvision" in capsys.readouterr().out


def test_whole_detectors(capsys) -> None:
    found = detector.main([*SMALL, "--batch", "1"])
    rows = found["contests"][0]["rows"]
    assert rows["swin-t dense"]["x_dense"] == 1.0
    assert rows["spt-t 0.25"]["ideal_x_dense"] > 1.0
