"""Window order as index arithmetic: equal to pad, roll and permute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from sptcore.ops.windows import effective_shift, orders_kept_in, window_order, window_pieces

CPU = torch.device("cpu")
GRIDS = [(7, 7), (14, 14), (8, 13), (1, 1), (3, 20), (21, 5), (15, 30)]


def rolled_windows(grid, window, shift):
    """The windows of torchvision's way: pad, roll, view, permute. (H, W) -> (windows, M * M)."""
    height, width = grid.shape
    padded = F.pad(grid, (0, -width % window, 0, -height % window), value=-1)
    padded = torch.roll(padded, (-shift[0], -shift[1]), (0, 1))
    rows, columns = (side // window for side in padded.shape)
    return padded.view(rows, window, columns, window).permute(0, 2, 1, 3).reshape(rows * columns, -1)


def shift_regions(height, width, window, shift):
    """torchvision's region numbers on the rolled grid, in window order."""
    regions = torch.zeros(-(-height // window) * window, -(-width // window) * window, dtype=torch.long)
    slices = [[slice(0, -window), slice(-window, -s), slice(-s, None)] if s else [slice(None)] for s in shift]
    for row, rows in enumerate(slices[0]):
        for column, columns in enumerate(slices[1]):
            regions[rows, columns] = row * 3 + column
    return rolled_windows(regions, window, (0, 0))


@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("shift_size", [0, 3])
def test_cells_equal_pad_roll_and_permute(size, shift_size):
    height, width = size
    order = window_order(height, width, window_size=7, shift_size=shift_size, device=CPU)
    tokens = torch.arange(height * width).view(height, width)
    expected = rolled_windows(tokens, 7, effective_shift(height, width, 7, shift_size))
    cells = order.cells.view_as(expected)
    assert torch.equal(cells.masked_fill(cells == height * width, -1), expected)
    assert torch.equal(order.cells[order.positions], tokens.flatten())
    assert order.num_windows == len(expected)
    assert order.has_pads == bool((expected < 0).any())


@pytest.mark.parametrize("size", GRIDS)
def test_regions_are_those_of_the_shift_mask(size):
    order = window_order(*size, window_size=7, shift_size=3, device=CPU)
    expected = shift_regions(*size, 7, effective_shift(*size, 7, 3))
    ours = order.regions.view_as(expected)
    assert torch.equal(ours[:, :, None] == ours[:, None, :], expected[:, :, None] == expected[:, None, :])


def test_an_axis_that_one_window_covers_is_not_shifted():
    assert effective_shift(7, 8, 7, 3) == (0, 3)
    assert effective_shift(20, 5, 7, 3) == (3, 0)
    assert not window_order(7, 7, window_size=7, shift_size=3, device=CPU).is_shifted


def test_the_cache_serves_training_after_inference_mode():
    with torch.inference_mode():
        order = window_order(11, 12, window_size=7, shift_size=3, device=CPU)
        pieces = window_pieces(order, batch=2, windows=3)
    assert not any(tensor.is_inference() for tensor in (order.cells, order.positions, order.regions, pieces[0].tokens))
    x = torch.randn(11 * 12, 4, requires_grad=True)
    (x[order.positions % 132] * x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("windows", [1, 3, 100])
def test_pieces_cover_every_token_once_and_agree_with_the_order(size, windows):
    height, width = size
    order = window_order(height, width, window_size=7, shift_size=3, device=CPU)
    pieces = window_pieces(order, batch=2, windows=windows)
    tokens = torch.cat([piece.tokens for piece in pieces])
    assert torch.equal(tokens.sort().values, torch.arange(2 * height * width))
    for piece in pieces:
        slots = torch.arange(len(piece.tokens)) if piece.slots is None else piece.slots
        assert slots.numel() % 49 == 0
        assert slots.numel() <= windows * 49
        places = torch.arange(slots.numel()) if piece.places is None else piece.places
        assert torch.equal(slots[places], torch.arange(len(piece.tokens)))
        if piece.closed is not None:
            assert piece.closed.any()
            assert piece.closed.shape == (slots.numel() // 49, 1, 49, 49)


def test_a_graph_under_capture_shares_no_order(monkeypatch):
    """What is computed while capturing holds nothing before a replay, and is the graph's memory: others make theirs."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    def order(device):
        return window_order(11, 13, window_size=7, shift_size=3, device=device)

    with FakeTensorMode():
        assert order(torch.device("cuda")) is not order(torch.device("cuda"))
    assert order(CPU) is order(CPU)  # the control


def test_a_book_keeps_its_orders_and_serves_them():
    book = {}
    with orders_kept_in(book):
        first, second = (window_order(11, 13, window_size=7, shift_size=3, device=CPU) for _ in range(2))
        other = window_order(11, 13, window_size=7, shift_size=0, device=CPU)
    assert first is second is not other
    assert list(book.values()) == [first, other]
    assert window_order(11, 13, window_size=7, shift_size=3, device=CPU) is not first
