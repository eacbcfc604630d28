"""Packing: where selected tokens go, and that they come back."""

from __future__ import annotations

import pytest
import torch

from sptcore.ops.packing import gather, pack, plan_packing, plan_windows, scatter, split_containers, unpack
from sptcore.ops.windows import window_order
from tests.support.numerics import assert_same

SIZES = [1, 17, 48, 49, 50, 63, 130]
GRID = (12, 15)


def random_mask(counts, grid=GRID, seed=0):
    """One image a count, with exactly that many tokens selected at random."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(counts), grid[0] * grid[1], dtype=torch.bool)
    for image, count in enumerate(counts):
        mask[image, torch.randperm(mask.shape[1], generator=generator)[:count]] = True
    return mask.view(len(counts), *grid)


CASES = [
    *[[size] for size in SIZES],
    [0],
    [0, 0, 0],
    [0, 30, 0, 5],
    [17, 49, 130, 0],
    [180, 180],
    [1, 1, 1],
    [48, 1, 50],
]


@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("shift", [0, 3])
def test_o13_containers_slots_and_order(counts, mode, shift):
    """O13: B' == ceil(P/L), P real slots, pads at the end, order strictly increasing in (image, window order)."""
    mask = random_mask(counts)
    packing = plan_packing(mask, 7, shift, mode)
    total = sum(counts)
    assert packing.num_tokens == total
    assert packing.counts.tolist() == counts
    if mode == "stream":
        assert packing.num_containers == -(-total // 49)
        assert packing.slot.tolist() == list(range(total))
    else:
        assert packing.num_containers == sum(-(-count // 49) for count in counts)
        starts = [0]
        for count in counts:
            starts.append(starts[-1] + -(-count // 49) * 49)
        assert packing.slot.tolist() == [s + i for s, count in zip(starts, counts, strict=False) for i in range(count)]
    keys = packing.image_id * 10_000 + packing.position
    assert (keys.diff() > 0).all()
    order = window_order(*GRID, window_size=7, shift_size=shift, device=mask.device)
    assert torch.equal(order.cells[packing.position], packing.token_index % (GRID[0] * GRID[1]))
    assert torch.equal(mask.flatten().nonzero().flatten(), packing.token_index.sort().values)


@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("length", [1, 5, 49, 64, 1000])
def test_round_trip_is_exact_in_any_container(counts, mode, length):
    """O13: unpack(pack(t)) == t bit for bit; pads are zero and fewer than L an image."""
    packing = plan_packing(random_mask(counts), 7, 0, mode, length)
    tokens = torch.randn(packing.num_tokens, 3, dtype=torch.float64)
    containers = pack(tokens, packing)
    assert containers.shape == (packing.num_containers, length, 3)
    assert torch.equal(unpack(containers, packing), tokens)
    assert containers.count_nonzero() == tokens.count_nonzero()
    slots = packing.num_containers * length
    assert packing.padding_fraction == (pytest.approx(1 - packing.num_tokens / slots) if slots else 0.0)
    assert slots - packing.num_tokens < length * (1 if mode == "stream" else len(counts))


@pytest.mark.parametrize("mode", ["stream", "aligned"])
def test_what_pads_hold_never_comes_back(mode):
    packing = plan_packing(random_mask([17, 0, 50]), 7, 3, mode)
    containers = torch.full((packing.num_containers * 49, 2), float("nan"))
    tokens = torch.randn(packing.num_tokens, 2)
    containers[packing.slot] = tokens
    assert torch.equal(unpack(containers.view(-1, 49, 2), packing), tokens)


@pytest.mark.parametrize("counts", CASES, ids=str)
def test_gather_and_scatter_are_inverse_on_selected_tokens(counts):
    mask = random_mask(counts)
    packing = plan_packing(mask, 7, 3)
    grid = torch.randn(len(counts), *GRID, 5)
    assert torch.equal(scatter(gather(grid, packing), packing), grid * mask.unsqueeze(-1))
    assert torch.equal(gather(grid[..., 0], packing), gather(grid, packing)[:, 0])


@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("counts", [[0, 3], [5, 2], [0, 0]], ids=str)
def test_gradients_of_the_way_there_and_back(mode, counts):
    packing = plan_packing(random_mask(counts, grid=(2, 4)), 2, 1, mode, 3)
    grid = torch.randn(2, 2, 4, 2, dtype=torch.float64, requires_grad=True)

    def there_and_back(grid):
        containers = pack(gather(grid, packing), packing)
        return scatter(unpack(containers.sin(), packing), packing)

    assert torch.autograd.gradcheck(there_and_back, (grid,))


def test_the_gradient_of_gather_is_zero_where_nothing_was_read():
    mask = random_mask([20, 0])
    packing = plan_packing(mask, 7, 0)
    grid = torch.randn(2, *GRID, 4, requires_grad=True)
    gather(grid, packing).sum().backward()
    assert grid.grad is not None
    assert_same(grid.grad, mask.unsqueeze(-1).expand_as(grid).float(), tolerance=0.0)


def test_coordinates_windows_and_regions_of_tokens():
    mask = torch.ones(2, 11, 12, dtype=torch.bool)
    packing = plan_packing(mask, 4, 2)
    assert torch.equal(packing.rows * 12 + packing.columns + packing.image_id * 132, packing.token_index)
    rolled = (packing.rows - 2) % 12 // 4 * 3 + (packing.columns - 2) % 12 // 4
    assert torch.equal(packing.windows, rolled)
    assert packing.regions.unique().numel() == 9


def test_one_image_is_packed_the_same_in_both_modes():
    mask = random_mask([63])
    stream, aligned = (plan_packing(mask, 7, 3, mode) for mode in ("stream", "aligned"))
    assert torch.equal(stream.slot, aligned.slot)
    assert torch.equal(stream.token_index, aligned.token_index)


def test_wrong_arguments_are_named():
    mask = random_mask([3])
    with pytest.raises(ValueError, match="mode"):
        plan_packing(mask, 7, 0, "dense")
    with pytest.raises(ValueError, match="container_len"):
        plan_packing(mask, 7, 0, "stream", 0)


@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("mode", ["stream", "aligned"])
@pytest.mark.parametrize("containers", [1, 2, 100])
def test_runs_of_containers_lie_end_to_end(counts, mode, containers):
    packing = plan_packing(random_mask(counts), 7, 3, mode)
    tokens = torch.randn(packing.num_tokens, 2)
    runs = split_containers(packing, containers)
    parts = [pack(tokens[rows], part) for rows, part in runs]
    assert torch.equal(torch.cat([torch.empty(0, 49, 2), *parts]), pack(tokens, packing))
    assert [index for rows, _ in runs for index in range(rows.start, rows.stop)] == list(range(packing.num_tokens))
    assert all(torch.equal(unpack(pack(tokens[rows], part), part), tokens[rows]) for rows, part in runs)


@pytest.mark.parametrize("counts", CASES, ids=str)
@pytest.mark.parametrize("shift", [0, 3])
def test_windows_as_containers_hold_each_token_at_its_cell(counts, shift):
    """One container for every window with a token, in order; what a container does not hold is a pad."""
    mask = random_mask(counts)
    packing = plan_windows(mask, 7, shift)
    order = window_order(*GRID, window_size=7, shift_size=shift, device=mask.device)
    cells = torch.nn.functional.pad(mask.flatten(1), (0, 1))[:, order.cells].view(len(counts), order.num_windows, 49)
    active = cells[cells.any(-1)]
    assert packing.num_containers == len(active)
    assert packing.num_tokens == sum(counts)
    assert torch.equal(pack(torch.ones(packing.num_tokens), packing) > 0, active)
    values = torch.arange(float(mask.numel())).view(mask.shape)
    rows = gather(values, packing)
    assert torch.equal(unpack(pack(rows, packing), packing), rows)
    assert torch.equal(scatter(rows, packing), values * mask)
    assert packing.cu_seqlens.diff().tolist() == active.sum(-1).tolist()
    parts = split_containers(packing, 2)
    assert sum(part.num_containers for _, part in parts) == packing.num_containers
    for rows_of, part in parts:
        assert torch.equal(unpack(pack(rows[rows_of], part), part), rows[rows_of])


def test_whole_windows_need_no_moving():
    assert plan_windows(torch.ones(2, 14, 21).bool(), 7, 3).contiguous
    assert not plan_windows(torch.ones(2, 14, 20).bool(), 7, 3).contiguous
