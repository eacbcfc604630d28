"""The operators that PyTorch's exporter does not know, each as plain ONNX operators; the one table FORMS."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sptcore.export.onnx_selected import translate_attend_selected
from sptcore.export.onnx_values import floats, ints, one_float, one_int, op
from sptcore.export.operators import nms_by_group

EVERY = 2**31 - 1  # boxes that one suppression may keep


def translate_nms_by_group(boxes, scores, groups, num_groups: int, threshold: float):
    """`sptcore::nms_by_group`: one NonMaxSuppression over scores (groups, N).

    A box has its score in its own group and -1 in the others, below the least that is looked at, so that boxes of
    different groups never meet.
    """
    numbers = op.Range(one_int(0), one_int(num_groups), one_int(1))
    own = op.Equal(op.Unsqueeze(numbers, ints(1)), op.Unsqueeze(groups, ints(0)))
    by_group = op.Where(own, op.Unsqueeze(scores, ints(0)), one_float(-1.0))
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, ints(0)), op.Unsqueeze(by_group, ints(0)), ints(EVERY), floats(threshold), floats(-0.5)
    )
    index = op.Reshape(op.Slice(kept, ints(2), ints(3), ints(1)), ints(-1))
    _, order = op.TopK(op.Gather(scores, index), op.Shape(index), axis=0)
    return op.Gather(index, order)


def translate_stable_sort(self, stable: bool = False, dim: int = -1, descending: bool = False):
    """`aten::sort.stable`: of equal values ONNX's TopK has the lower index first, which is what stable means."""
    length = ints(int(self.shape[dim]))
    return op.TopK(self, length, axis=dim, largest=int(descending), sorted=1)


FORMS: dict[Callable, Callable] = {
    torch.ops.sptcore.attend_selected.default: translate_attend_selected,
    nms_by_group._opoverload: translate_nms_by_group,
    torch.ops.aten.sort.stable: translate_stable_sort,
}
