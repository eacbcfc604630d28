"""The forms of single operators in ONNX: the same result in the same order as the operator's own."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sptcore.export.operators import nms_by_group

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (spt[export])")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (spt[export])")

GROUPS, THRESHOLD = 3, 0.5


class Suppression(nn.Module):
    """One call of the operator."""

    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        return nms_by_group(boxes, scores, groups, GROUPS, THRESHOLD)


def crowd(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that overlap within and across groups, none of equal score."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 10 + 10 * torch.rand(count, 2, generator=generator)], 1)
    scores = torch.randperm(count, generator=generator) / max(count, 1)
    return boxes, scores, torch.randint(0, GROUPS, (count,), generator=generator)


@pytest.fixture(scope="module")
def session() -> Any:
    from sptcore.export.onnx_forms import FORMS

    count = torch.export.Dim("count", min=0, max=1000)
    with torch.no_grad():
        program = torch.onnx.export(
            Suppression().eval(),
            crowd(40),
            dynamo=True,
            verbose=False,
            custom_translation_table=FORMS,
            input_names=["boxes", "scores", "groups"],
            dynamic_shapes=({0: count},) * 3,
        )
    stream = io.BytesIO()
    program.save(stream)
    return onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [40, 200, 1, 0])
def test_boxes_are_suppressed_within_their_group_best_first(session: Any, count: int) -> None:
    boxes, scores, groups = crowd(count)
    (kept,) = session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy(), "groups": groups.numpy()})
    wanted = nms_by_group(boxes, scores, groups, GROUPS, THRESHOLD)
    assert kept.tolist() == wanted.tolist()
    together = nms_by_group(boxes, scores, torch.zeros_like(groups), 1, THRESHOLD)
    if count > 1:
        assert len(together) < len(wanted) < count, "groups matter here, and some are suppressed"
        assert sorted(kept.tolist()) != kept.tolist(), "the order matters here"
