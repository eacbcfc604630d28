"""The operator in ONNX: the same numbers as the operator itself for any selection, and no more rows than selected."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sptcore.ops.attend_selected import Branch, FeedForward, PackingRule, Projections, attend_selected
from sptcore.ops.layer_norm import Norm
from sptcore.ops.packed_attention import PositionBias
from sptcore.ops.selection import Selection

onnx = pytest.importorskip("onnx", reason="ONNX is not installed (spt[export])")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (spt[export])")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (spt[export])")

DIM, HEADS, WINDOW = 8, 2, 4


@dataclass(frozen=True)
class Case:
    grid: tuple[int, int, int]
    rule: PackingRule
    bias: str = "spatial"
    feed_forward: bool = False
    passes: bool = False


CASES = {
    "as the paper, shifted, grid no multiple of the window": Case((1, 7, 9), PackingRule(WINDOW, 2, "aligned", 16)),
    "aligned, several images, short containers": Case(
        (3, 5, 6), PackingRule(WINDOW, 0, "aligned", 5, "image_window"), "none"
    ),
    "stream through the images, by slot, regions": Case(
        (2, 8, 8), PackingRule(WINDOW, 2, "stream", 16, "image_region"), "slot"
    ),
    "the others skip the block": Case((2, 6, 5), PackingRule(WINDOW, 2, "aligned", 16), feed_forward=True),
    "the others are projected": Case((2, 6, 5), PackingRule(WINDOW, 0, "stream", 16), passes=True),
}


class Module(nn.Module):
    """One call of the operator, its weights inside."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.norm, self.second = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.fc1, self.fc2 = nn.Linear(DIM, 16), nn.Linear(16, DIM)
        self.table = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, HEADS))
        for norm in (self.norm, self.second):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
        weights = Projections(self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias, HEADS)
        bias = None if self.case.bias == "none" else PositionBias(self.table, WINDOW, self.case.bias)
        mlp = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        second = FeedForward(Norm.of(self.second), *mlp) if self.case.feed_forward else None
        branch = Branch(Norm.of(self.norm), weights, bias, second, self.case.passes)
        return attend_selected(x, Selection(logits, mask.float(), torch.ones_like(mask)), branch, self.case.rule)


def inputs(case: Case, share: float) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(round(100 * share))
    return torch.randn(*case.grid, DIM), torch.randn(case.grid), torch.rand(case.grid) < share


def exported(case: Case) -> tuple[Module, Any]:
    from sptcore.export.onnx_forms import FORMS

    torch.manual_seed(0)
    module = Module(case).eval().requires_grad_(False)
    with torch.no_grad():
        program = torch.onnx.export(
            module, inputs(case, 0.5), dynamo=True, verbose=False, custom_translation_table=FORMS, input_names=NAMES
        )
    stream = io.BytesIO()
    program.save(stream)
    return module, onnx.load_from_string(stream.getvalue())


NAMES = ["x", "logits", "mask"]


def session(model: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def feed(values: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in zip(NAMES, values, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_for_any_selection(name: str) -> None:
    case = CASES[name]
    module, model = exported(case)
    assert {node.domain for node in model.graph.node} == {""}, "an operator that onnxruntime does not bring"
    run = session(model)
    for share in (0.0, 0.02, 0.4, 1.1):
        values = inputs(case, share)
        with torch.no_grad():
            wanted = module(*values)
        torch.testing.assert_close(torch.from_numpy(run.run(None, feed(values))[0]), wanted, rtol=1e-5, atol=1e-5)


def test_only_what_is_selected_is_computed_on() -> None:
    """Rows through QKV are the selected tokens; slots through the attention whole containers of them."""
    from sptcore.export.onnx_selected import SELECTED_ROWS

    case = CASES["aligned, several images, short containers"]
    _, model = exported(case)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    for name in (SELECTED_ROWS, softmax.output[0]):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    run, length = session(model), case.rule.container_len
    for share in (0.0, 0.3, 1.1):
        values = inputs(case, share)
        _, rows, weights = run.run(None, feed(values))
        counts = values[2].flatten(1).sum(1)
        containers = max(1, int((-(-counts // length)).sum()))
        assert rows.shape == (int(counts.sum()), 3 * DIM)
        assert weights.shape == (containers, HEADS, length, length)


def test_a_packing_it_does_not_know_is_refused() -> None:
    from sptcore.export.onnx_selected import translate_attend_selected

    case = CASES["the others skip the block"]
    arguments = [None] * 9 + [1e-5, 1e-5, HEADS, WINDOW, 0, "spiral", 16, "image", WINDOW, False, False, False]
    with pytest.raises(ValueError, match="spiral"):
        translate_attend_selected(torch.zeros(*case.grid, DIM), *arguments[1:])
