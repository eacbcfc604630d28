from __future__ import annotations

from dataclasses import replace

import pytest

from sptcore.models.config import BackboneConfig
from sptcore.models.variants import VARIANTS
from sptcore.profiling.macs import (
    Cost,
    DetectorShape,
    backbone_macs,
    detector_macs,
    group_costs,
    spa_places,
    stage_grids,
    total,
    uniform_counts,
)
from sptcore.tasks.detector import HEADS

MASK_RCNN_SWIN = {"t": 266.557411328, "s": 358.599151616, "b": 503.041893376}

# docs/paper.md, Costs: GMAC at 1280 x 800 and a uniform select ratio, Eq. 9 / projection on packed tokens only
TABLE = {
    "t": {
        0: (247.8, 243.1),
        0.1: (249.4, 245.1),
        0.22: (251.2, 247.5),
        0.3: (252.4, 249.1),
        0.5: (255.5, 253.1),
        1: (263.1, 263.1),
    },
    "s": {
        0: (311.6, 299.8),
        0.1: (315.4, 304.8),
        0.22: (320.0, 310.8),
        0.3: (323.0, 314.8),
        0.5: (330.7, 324.8),
        1: (349.8, 349.8),
    },
    "b": {
        0: (420.9, 399.9),
        0.1: (427.6, 408.7),
        0.22: (435.6, 419.2),
        0.3: (440.9, 426.3),
        0.5: (454.3, 443.8),
        1: (487.6, 487.6),
    },
}


@pytest.mark.parametrize("size", "tsb")
def test_the_paper_counts_mask_rcnn_with_swin(size: str) -> None:
    """O25: 266.557411328, 358.599151616, 503.041893376 G; the paper prints 267, 359 and (for B, another window) 508."""
    _, paper = total(detector_macs(VARIANTS[f"swin-{size}"], 800, 1280))
    assert paper / 1e9 == pytest.approx(MASK_RCNN_SWIN[size], rel=1e-9)


@pytest.mark.parametrize(("size", "gmacs"), [("t", 95.56), ("s", 187.60), ("b", 331.06)])
def test_backbones_alone(size: str, gmacs: float) -> None:
    assert total(backbone_macs(VARIANTS[f"swin-{size}"], 800, 1280))[1] / 1e9 == pytest.approx(gmacs, abs=0.005)


@pytest.mark.parametrize("size", "tsb")
@pytest.mark.parametrize("ratio", [0, 0.1, 0.22, 0.3, 0.5, 1])
def test_the_table_of_uniform_ratios(size: str, ratio: float) -> None:
    """The published table fills containers (B' = P / L, no ceiling) and leaves out the entry gate.

    Its cell for T at ratio 0 is cut, not rounded: the formula gives 247.851 where 247.8 is printed. Hence .052.
    """
    config = VARIANTS[f"spt-{size}"]
    entry_gate = sum(c.eq9 for c in detector_macs(config, 800, 1280) if c.component == "gate" and not c.block)
    eq9 = total(detector_macs(config, 800, 1280, ratio))[1] - entry_gate
    unprojected = 0.0
    for stage, _ in spa_places(config):
        height, width = stage_grids(800, 1280)[stage - 1]
        channels, length = config.channels[stage - 1], config.packed_len
        selected = round(ratio * height * width)
        pads = -selected % length
        eq9 -= pads * (3 * channels**2 + 2 * length * channels)
        unprojected += (height * width - selected) * channels**2
    expected = TABLE[size][ratio]
    assert eq9 / 1e9 == pytest.approx(expected[0], abs=0.052)
    assert (eq9 - unprojected) / 1e9 == pytest.approx(expected[1], abs=0.052)


def test_a_full_selection_costs_less_than_swin() -> None:
    """Window padding is not paid for: 263.1 against 266.6 G."""
    spt = total(detector_macs(VARIANTS["spt-t"], 800, 1280, 1.0))[1]
    assert spt < total(detector_macs(VARIANTS["swin-t"], 800, 1280))[1]


def test_stages_add_up_and_tell_their_ratio() -> None:
    config = VARIANTS["spt-t"]
    ratios = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.25, 0.75]
    stages = backbone_macs(config, 320, 512, ratios, batch=2)
    assert [stage.stage for stage in stages] == [1, 2, 3, 4]
    assert [stage.select_ratio for stage in stages[:2]] == [None, None]
    assert stages[2].select_ratio == pytest.approx(0.35, abs=0.002)
    assert stages[3].select_ratio == pytest.approx(0.5, abs=0.01)
    assert sum(stage.macs for stage in stages) == total(stages)[0]
    costs = [cost for stage in stages for cost in stage.costs]
    for by in ("part", "stage", "block", "component"):
        assert sum(actual for actual, _ in group_costs(costs, by).values()) == total(stages)[0]
    assert set(group_costs(costs, "component")) == {
        "patch_embed",
        "merging",
        "gate",
        "qkv",
        "attention",
        "proj",
        "ffn",
    }


def test_actual_follows_the_packing_and_eq9_does_not() -> None:
    """Two images of 10 tokens each: one container as a stream, two aligned; Eq. 9 counts one."""
    config = VARIANTS["spt-nano"]
    counts = [[3, 3]] * 4
    stream = total(backbone_macs(config, 128, 128, batch=2, counts=counts, packing="stream"))
    aligned = total(backbone_macs(config, 128, 128, batch=2, counts=counts, packing="aligned"))
    extra = sum(2 * 16**2 * config.channels[stage - 1] for stage, _ in spa_places(config))
    assert aligned[0] - stream[0] == extra
    assert aligned[1] == stream[1]


@pytest.mark.parametrize("option", [{"bypass": "proj"}, {"ffn": "selected"}, {"selector": "all"}])
def test_options_change_what_runs(option: dict[str, str]) -> None:
    plain = VARIANTS["spt-t"]
    actual, _ = total(backbone_macs(plain, 320, 512, 0.25))
    changed, _ = total(backbone_macs(replace(plain, **option), 320, 512, 0.25))
    tokens = {stage: h * w for stage, (h, w) in enumerate(stage_grids(320, 512), start=1)}
    channels = plain.channels
    places = [stage for stage, _ in spa_places(plain)]
    left = {stage: tokens[stage] - round(tokens[stage] / 4) for stage in (3, 4)}
    expected = {
        "bypass": sum(left[stage] * channels[stage - 1] ** 2 for stage in places),
        "ffn": -sum(left[stage] * 8 * channels[stage - 1] ** 2 for stage in places),
        "selector": -sum(tokens[stage] * channels[stage - 1] for stage in [2, *places]),
    }
    assert changed - actual == expected[next(iter(option))]


def test_all_windows_gathered_cost_as_swin_does() -> None:
    """By the paper's count, at sizes with pad cells and without; ours projects no pads. Half the windows cost less."""
    for size in ((800, 1280), (320, 512), (448, 448)):
        swin = total(backbone_macs(VARIANTS["swin-t"], *size))
        gathered = total(backbone_macs(VARIANTS["topk-windows-t"], *size, 1.0))
        assert gathered[1] == swin[1]
        assert gathered[0] <= swin[0]
        half = backbone_macs(VARIANTS["topk-windows-t"], *size, 0.5)
        assert total(half)[0] < gathered[0]
        assert half[3].select_ratio == pytest.approx(0.5, abs=0.01)


def test_windows_are_counted_where_they_are_known() -> None:
    """One token in each of 9 windows costs the attention of 9, not of the one that would hold them."""
    config = replace(VARIANTS["swin-gt-nano"], num_spa_blocks=2)  # stage 4: a grid of 12 x 12, windows of 4
    known = group_costs(backbone_costs(config, windows=[[9], [9]]), "component")["attention"]
    fewest = group_costs(backbone_costs(config), "component")["attention"]
    assert known[0] - fewest[0] == 2 * 8 * 2 * 16**2 * 256
    with pytest.raises(ValueError, match="windows must be 2 rows of 1"):
        backbone_costs(config, windows=[[9]])


def backbone_costs(config: BackboneConfig, **windows: list[list[int]]) -> list[Cost]:
    stages = backbone_macs(config, 384, 384, counts=[[9], [9]], **windows)
    return [cost for stage in stages for cost in stage.costs]


def test_a_detector_without_masks_and_with_small_heads() -> None:
    config = VARIANTS["spt-nano"]
    boxes_only = DetectorShape(HEADS["small"], categories=5, masks=False)
    with_masks = DetectorShape(HEADS["small"], categories=5)
    parts = group_costs(detector_macs(config, 128, 128, shape=boxes_only), "part")
    assert list(parts) == ["backbone", "fpn", "rpn", "box_head"]
    assert list(group_costs(detector_macs(config, 128, 128, shape=with_masks), "part"))[-1] == "mask_head"


def test_the_detector_pads_to_32() -> None:
    config = VARIANTS["swin-nano"]
    assert total(detector_macs(config, 97, 129)) == total(detector_macs(config, 128, 160))
    assert total(backbone_macs(config, 97, 129)) < total(backbone_macs(config, 128, 160))


def test_grids_are_nested_ceilings() -> None:
    assert stage_grids(33, 1) == [(9, 1), (5, 1), (3, 1), (2, 1)]


def test_refuses_ratios_and_counts_that_do_not_fit() -> None:
    config = VARIANTS["spt-t"]
    with pytest.raises(ValueError, match="3 ratios for 8"):
        uniform_counts(config, 64, 64, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="between 0 and 1"):
        backbone_macs(config, 64, 64, 1.5)
    with pytest.raises(ValueError, match="8 rows of 2"):
        backbone_macs(config, 64, 64, batch=2, counts=[[1]] * 8)
