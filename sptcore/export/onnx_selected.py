"""`sptcore::attend_selected` in plain ONNX operators: what is not selected is not computed.

NonZero over the mask in window order gives the P selected tokens. P rows go through QKV, the output projection and,
where the others skip it, the feed-forward network; containers of L slots go through the attention. P and the number of
containers are sizes at run time, not in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnxscript import ir

from sptcore.export.onnx_values import integers, ints, one_float, one_int, op
from sptcore.ops.packed_attention.reference import relative_index
from sptcore.ops.packing import MODES
from sptcore.ops.windows import window_order

SELECTED_ROWS = "selected_qkv"
"""Name, within its node's scope, of the (P, 3C) rows that come out of QKV."""


@dataclass(frozen=True)
class _Rule:
    """The settings of one call, all known when the graph is made, shapes too; `length` is L."""

    batch: int
    tokens: int
    channels: int
    heads: int
    aligned: bool
    length: int
    scope: str
    table_window: int
    by_slot: bool


def translate_attend_selected(
    x,
    scale,
    mask,
    stats,
    norm,
    projections,
    second_norm,
    feed_forward,
    table,
    norm_eps: float,
    second_eps: float,
    num_heads: int,
    window_size: int,
    shift_size: int,
    mode: str,
    container_len: int,
    scope: str,
    table_window: int,
    by_slot: bool,
    passes: bool,
    by_kernel: bool,
):
    """The ONNX nodes of one call, from the values of its arguments to the value of its result (B, H, W, C).

    Arguments as `sptcore.ops.attend_selected.operator.attend_branch`. `stats` and `by_kernel` change no result and are
    not looked at. Raises ValueError for a packing mode it does not know.
    """
    if mode not in MODES:
        raise ValueError(f"an ONNX graph packs {' or '.join(MODES)}, not {mode!r}")
    batch, height, width, channels = (int(side) for side in x.shape)
    aligned = mode == "aligned" and batch > 1
    tokens = height * width
    rule = _Rule(batch, tokens, channels, num_heads, aligned, container_len, scope, table_window, by_slot)
    places = _places(height, width, window_size, shift_size)
    chosen = _choose(mask, places, rule)
    flat, factors = op.Reshape(x, ints(-1, channels)), op.Reshape(scale, ints(-1, 1))
    picked = op.Gather(flat, chosen.token)
    normed = _norm(picked, norm, norm_eps)
    qkv = _linear(op.Mul(normed, op.Gather(factors, chosen.token)), *projections[:2])
    qkv.name = SELECTED_ROWS
    mixed = _attend(qkv, chosen, table, places, rule)
    index = op.Unsqueeze(chosen.token, ints(-1))
    if passes:
        passed = op.ScatterND(op.Mul(_norm(flat, norm, norm_eps), factors), index, mixed)
        out = op.Add(flat, _linear(passed, *projections[2:]))
    else:
        rows = op.Add(picked, _linear(mixed, *projections[2:]))
        if feed_forward:
            rows = op.Add(rows, _feed_forward(_norm(rows, second_norm, second_eps), feed_forward))
        out = op.ScatterND(flat, index, rows)
    return op.Reshape(out, ints(batch, height, width, channels))


def _norm(rows, norm, eps: float):
    normed, *_ = op.LayerNormalization(rows, norm[0], norm[1], axis=-1, epsilon=eps)  # and its statistics
    return normed


def _feed_forward(rows, weights):
    """Linear, GELU (the exact one, of erf), Linear."""
    hidden = _linear(rows, *weights[:2])
    bent = op.Mul(op.Mul(hidden, one_float(0.5)), op.Add(op.Erf(op.Mul(hidden, one_float(0.5**0.5))), one_float(1.0)))
    return _linear(bent, *weights[2:])


@dataclass(frozen=True, eq=False)
class _Places:
    """What is known of each place of the window order, pad cells left out: (N,) int64 each."""

    token: np.ndarray
    row: np.ndarray
    column: np.ndarray
    region: np.ndarray
    window: np.ndarray


def _places(height: int, width: int, window_size: int, shift_size: int) -> _Places:
    order = window_order(height, width, window_size=window_size, shift_size=shift_size, device=torch.device("cpu"))
    cells = order.cells.numpy()
    real = np.flatnonzero(cells < height * width)
    token = cells[real]
    return _Places(token, token // width, token % width, order.regions.numpy()[real], real // window_size**2)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The P selected tokens in packing order: `token` in the flat batch, `image`, `place`, `slot`, all (P,) int64.

    `slots` (1,) int64: the slots of all containers, at least one container.
    """

    token: Any
    image: Any
    place: Any
    slot: Any
    slots: Any


def _choose(mask, places: _Places, rule: _Rule) -> _Chosen:
    ordered = op.Gather(op.Reshape(mask, ints(rule.batch, rule.tokens)), integers(places.token), axis=1)
    image, place = op.Split(op.NonZero(ordered), axis=0, num_outputs=2)
    image, place = op.Squeeze(image, ints(0)), op.Squeeze(place, ints(0))
    token = op.Add(op.Mul(image, ints(rule.tokens)), op.Gather(integers(places.token), place))
    count = op.Shape(token)
    rank = op.Range(one_int(0), op.Squeeze(count, ints(0)), one_int(1))
    if not rule.aligned:
        return _Chosen(token, image, place, rank, op.Mul(op.Max(_containers(count, rule), ints(1)), ints(rule.length)))
    counts = op.ReduceSum(op.Cast(ordered, to=ir.DataType.INT64), ints(1), keepdims=0)
    containers = _containers(counts, rule)
    pads = op.Sub(op.Mul(containers, ints(rule.length)), counts)
    slot = op.Add(rank, op.Gather(op.CumSum(pads, one_int(0), exclusive=1), image))
    total = op.Max(op.ReduceSum(containers, ints(0), keepdims=1), ints(1))
    return _Chosen(token, image, place, slot, op.Mul(total, ints(rule.length)))


def _containers(counts, rule: _Rule):
    """ceil(counts / L)."""
    return op.Div(op.Add(counts, ints(rule.length - 1)), ints(rule.length))


def _attend(qkv, chosen: _Chosen, table, places: _Places, rule: _Rule):
    """(P, 3C) -> (P, C): softmax(q k^T / sqrt(d) + bias) v inside the containers (B', L)."""
    width = rule.channels // rule.heads
    packed = _pack(qkv, chosen, rule, (3 * rule.channels,))
    packed = op.Reshape(packed, ints(-1, rule.length, 3, rule.heads, width))
    query, key, value = op.Split(op.Transpose(packed, perm=[2, 0, 3, 1, 4]), axis=0, num_outputs=3)
    query, key, value = (op.Squeeze(one, ints(0)) for one in (query, key, value))  # (B', h, L, d)
    scores = op.MatMul(op.Mul(query, one_float(width**-0.5)), op.Transpose(key, perm=[0, 1, 3, 2]))
    if table is not None:
        scores = op.Add(scores, _bias(table, chosen, places, rule))
    seen = op.Unsqueeze(_same(_pack(_segments(chosen, places, rule), chosen, rule)), ints(1))
    weights = op.Softmax(op.Where(seen, scores, one_float(float("-inf"))), axis=-1)
    mixed = op.Reshape(op.Transpose(op.MatMul(weights, value), perm=[0, 2, 1, 3]), ints(-1, rule.channels))
    return op.Gather(mixed, chosen.slot)


def _pack(rows, chosen: _Chosen, rule: _Rule, shape: Sequence[int] = ()):
    """(P, ...) -> (B', L, ...), zero in the pads."""
    if rule.aligned:
        zeros = op.Expand(
            op.CastLike(one_float(0.0), rows), op.Concat(chosen.slots, ints(*shape), axis=0) if shape else chosen.slots
        )
        slots = op.ScatterND(zeros, op.Unsqueeze(chosen.slot, ints(-1)), rows)
    else:
        behind = op.Sub(chosen.slots, op.Shape(chosen.token))
        slots = op.Pad(rows, op.Concat(ints(0), behind, axis=0), None, ints(0))
    return op.Reshape(slots, ints(-1, rule.length, *shape))


def _segments(chosen: _Chosen, places: _Places, rule: _Rule):
    """(P,) int64 above 0: tokens of a container attend to each other where these are equal; pads have 0."""
    ids = chosen.image
    if rule.scope != "image":
        ids = op.Add(op.Mul(ids, ints(9)), op.Gather(integers(places.region), chosen.place))
    if rule.scope == "image_window":
        ids = op.Add(op.Mul(ids, ints(rule.tokens)), op.Gather(integers(places.window), chosen.place))
    return op.Add(ids, ints(1))


def _same(ids):
    """(B', L) -> (B', L, L) bool: equal ids."""
    return op.Equal(op.Unsqueeze(ids, ints(2)), op.Unsqueeze(ids, ints(1)))


def _bias(table, chosen: _Chosen, places: _Places, rule: _Rule):
    """The position bias of every pair of slots, (B', h, L, L), or (1, h, L, L) by slot."""
    if rule.by_slot:
        index = integers(relative_index(rule.table_window, torch.device("cpu")).numpy())
        return op.Unsqueeze(op.Transpose(op.Gather(table, index), perm=[2, 0, 1]), ints(0))
    reach, side = rule.table_window - 1, 2 * rule.table_window - 1
    dy, dx = (
        _offset(_pack(op.Gather(integers(axis), chosen.place), chosen, rule), reach)
        for axis in (places.row, places.column)
    )
    return op.Transpose(op.Gather(table, op.Add(op.Mul(dy, ints(side)), dx)), perm=[0, 3, 1, 2])


def _offset(coordinate, reach: int):
    """(B', L) -> (B', L, L): how far query i lies behind key j, clipped to +-reach, from 0 up."""
    apart = op.Sub(op.Unsqueeze(coordinate, ints(2)), op.Unsqueeze(coordinate, ints(1)))
    return op.Add(op.Min(op.Max(apart, ints(-reach)), ints(reach)), ints(reach))


def _linear(rows, weight, bias):
    """x W^T + b of a weight (out, in)."""
    return op.Add(op.MatMul(rows, op.Transpose(weight, perm=[1, 0])), bias)
