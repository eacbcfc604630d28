"""What is split adds up: every grouping of every variant, and in the rows of a profile of every family."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from sptcore.models.variants import VARIANTS, backbone_config, build_backbone
from sptcore.profiling.counted import count_macs
from sptcore.profiling.job import BREAKDOWNS, ProfileReport, ProfileRequest, profile
from sptcore.profiling.macs import GROUPINGS, backbone_macs, detector_macs, group_costs, total
from sptcore.profiling.subjects import Setting, subject
from sptcore.profiling.tables import grids, to_dict, write_report

NANO = [name for name in VARIANTS if name.endswith("-nano")]
SIZE = (200, 152)


def added(groups: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(actual for actual, _ in groups.values()), sum(eq9 for _, eq9 in groups.values())


def test_every_family_has_a_nano() -> None:
    assert {name.rpartition("-")[0] for name in VARIANTS} == {name.rpartition("-")[0] for name in NANO}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_grouping_adds_up_to_the_whole(name: str, training: bool) -> None:
    config = backbone_config(name)
    ratio = config.fixed_ratios or 0.3
    stages = backbone_macs(config, *SIZE, ratio, 2, training=training)
    costs = detector_macs(config, *SIZE, ratio, 2, training=training)
    padded = backbone_macs(config, 224, 160, ratio, 2, training=training)
    assert total(cost for cost in costs if cost.part == "backbone") == total(padded)
    for by in GROUPINGS:
        assert added(group_costs(costs, by)) == total(costs)
        assert added(group_costs((cost for stage in stages for cost in stage.costs), by)) == total(stages)
    by_stage = group_costs((cost for stage in stages for cost in stage.costs), "stage")
    assert list(by_stage.values()) == [(stage.macs, stage.macs_eq9) for stage in stages if stage.costs]


@pytest.mark.parametrize("name", NANO)
def test_a_forward_pass_in_training_is_what_the_formula_says(name: str) -> None:
    """On the selection that was made, drawn noise and all, packed as training packs."""
    torch.manual_seed(0)
    backbone = build_backbone(name, drop_path=0.0).train()
    grids = {8: (25, 19), 16: (13, 10), 32: (7, 5)}
    images, labels = torch.randn(2, 3, *SIZE), {stride: torch.rand(2, *grid) < 0.3 for stride, grid in grids.items()}
    config, seen = backbone.config, []
    wanted = {} if config.selector != "ground_truth" else {"select_labels": labels}

    def forward() -> None:
        seen.append(backbone(images, **wanted))

    ran = count_macs(forward).macs
    if config.fixed_ratios is None and config.num_spa_blocks:
        counts = [one.selection.counts.tolist() for one in seen[0].selections]
        gathers = config.attention == "window_gather"
        windows = [one.packing.containers_of_images.tolist() for one in seen[0].selections] if gathers else None
        expected = backbone_macs(config, *SIZE, batch=2, counts=counts, windows=windows, training=True)
    else:
        expected = backbone_macs(config, *SIZE, config.fixed_ratios or 1.0, 2, training=True)
    assert ran == total(expected)[0]


@pytest.fixture(scope="module")
def reports() -> dict[str, ProfileReport]:
    """All nano models at a ratio of .3, once a breakdown."""
    subjects = tuple(subject(name, [0.3]) for name in NANO)
    setting = Setting("backbone", 64, 96, batch=2)
    return {by: profile(ProfileRequest(subjects, setting, latency=False, by=by)) for by in BREAKDOWNS}


@pytest.mark.parametrize("by", BREAKDOWNS)
def test_rows_add_up(reports: dict[str, ProfileReport], by: str) -> None:
    assert len(reports[by].rows) == 2 * len(NANO)
    for row in reports[by].rows:
        assert sum(actual for actual, _ in row.breakdown.values()) == row.macs_actual == row.macs_counted, row.name
        if by != "op":
            assert sum(eq9 or 0 for _, eq9 in row.breakdown.values()) == row.macs_eq9, row.name


def test_files_say_what_the_report_says(reports: dict[str, ProfileReport], tmp_path: Path) -> None:
    report = reports["component"]
    for suffix in ("json", "md", "csv"):
        write_report(report, tmp_path / f"p.{suffix}", by="component")
    plain = json.loads((tmp_path / "p.json").read_text())
    assert plain == json.loads(json.dumps(to_dict(report)))
    with (tmp_path / "p.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, plain["rows"], strict=True):
        single = {name: value for name, value in row.items() if name in line}
        assert {name: line[name] for name in single} == {
            name: "" if value is None else str(value) for name, value in single.items()
        }
        assert set(row) - set(line) == {"block_ratios", "breakdown", "latency", "train"}
    sections = (tmp_path / "p.md").read_text().split("## ")[1:]
    for section, grid in zip(sections, grids(report, by="component"), strict=True):
        title, _, *written = section.strip().splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in written if line.startswith("|")]
        assert title == grid.title
        assert [line for line in written if line and not line.startswith("|")] == list(grid.footnotes)
        assert cells[0] == grid.columns
        assert cells[2:] == [["-" if cell is None else str(cell) for cell in row] for row in grid.rows]
