"""Registers every operator of ours that a pt2 file may hold: import this module, then `torch.export.load` reads it.

    import sptcore.export.operators
    program = torch.export.load("model.pt2")

`sptcore::attend_selected` is the attention of a selecting block, `sptcore::nms_by_group` the suppression in a detector,
`torchvision::roi_align` its pooling.
"""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (registers roi_align)
from torch import Tensor
from torchvision.ops import batched_nms

import sptcore.ops.attend_selected  # noqa: F401  (registers attend_selected)


@torch.library.custom_op("sptcore::nms_by_group", mutates_args=())
def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float) -> Tensor:
    """Indices (K,) int64 of the boxes (N, 4) xyxy kept among those of their own group, best score first.

    `groups` (N,) int64 below `num_groups`. An operator because torchvision chooses its way by N, which a captured graph
    does not know.
    """
    return batched_nms(boxes, scores, groups, threshold)


@nms_by_group.register_fake
def _(boxes: Tensor, *_: object) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)
