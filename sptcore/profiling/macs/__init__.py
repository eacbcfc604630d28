"""What a model costs, by formula: multiply-accumulates of every part, without running it (Eq. 7 to 9 and their like).

Two figures stand side by side. `actual` is what this code runs: linear layers on real tokens only, the containers of
the packing in use. `eq9` is the paper's count: Swin's windows padded before the projections, and Eq. 9 for select and
pack attention (containers full, the output projection on every token). The paper's and mmdetection's "FLOPs" are these
MACs: 1 MAC = 2 FLOPs. Norms, activations, softmax, additions and data movement count nothing.
"""

from __future__ import annotations

from sptcore.profiling.macs.backbone import (
    Counts,
    backbone_macs,
    spa_places,
    stage_grids,
    uniform_counts,
)
from sptcore.profiling.macs.cost import GROUPINGS, Cost, StageCost, group_costs, total
from sptcore.profiling.macs.detector import DetectorShape, detector_macs

__all__ = [
    "GROUPINGS",
    "Cost",
    "Counts",
    "DetectorShape",
    "StageCost",
    "backbone_macs",
    "detector_macs",
    "group_costs",
    "spa_places",
    "stage_grids",
    "total",
    "uniform_counts",
]
