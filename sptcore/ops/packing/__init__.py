"""Packing: the selected tokens of a batch, laid end to end into containers of a fixed length."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sptcore.ops.backend import choose_impl
from sptcore.ops.packing.reference import compact, gather_rows, plan_slots
from sptcore.ops.windows import window_order

MODES = ("stream", "aligned")
PIECE_TOKENS = 784  # 16 windows of 49: what is worked on together stays in the cache of a CPU


@dataclass(frozen=True, eq=False)
class Packing:
    """Where each of the P selected tokens comes from and which slot of which container it takes.

    Tokens are ordered by image, then by window of the shifted grid, then row-major inside the window. All per-token
    tensors are (P,) int64: `token_index` into the flat (B*H*W) grid, `image_id`, `position` in the window order of the
    padded grid, `slot` in the flat (B' * L) containers. `contiguous`: slot i holds token i, pads only at the very end.
    """

    grid: tuple[int, int, int]
    window_size: int
    shift_size: int
    container_len: int
    num_containers: int
    contiguous: bool
    token_index: Tensor
    image_id: Tensor
    position: Tensor
    slot: Tensor

    @property
    def num_tokens(self) -> int:
        """P."""
        return self.token_index.numel()

    @property
    def counts(self) -> Tensor:
        """(B,) int64: selected tokens of each image."""
        return torch.bincount(self.image_id, minlength=self.grid[0])

    @property
    def padding_fraction(self) -> float:
        """1 - P / (B' L): the share of slots nobody sits in; 0 without containers."""
        slots = self.num_containers * self.container_len
        return 1.0 - self.num_tokens / slots if slots else 0.0

    @property
    def containers_of_images(self) -> Tensor:
        """(B,) int64: the containers that each image is the first in."""
        return torch.bincount(self.image_id[self.cu_seqlens[:-1].long()], minlength=self.grid[0])

    @property
    def cu_seqlens(self) -> Tensor:
        """(B' + 1,) int32: the first token of each container, and P; tokens of a container are consecutive."""
        first_slots = torch.arange(self.num_containers + 1, device=self.slot.device) * self.container_len
        return torch.searchsorted(self.slot, first_slots).int()

    @property
    def rows(self) -> Tensor:
        """(P,) int64: the grid row of each token."""
        return self.token_index % (self.grid[1] * self.grid[2]) // self.grid[2]

    @property
    def columns(self) -> Tensor:
        """(P,) int64: the grid column of each token."""
        return self.token_index % self.grid[2]

    @property
    def windows(self) -> Tensor:
        """(P,) int64: the window of the shifted grid in which each token lies."""
        return self.position // self.window_size**2

    @property
    def regions(self) -> Tensor:
        """(P,) int64: Swin's region 0..8 of each token."""
        _, height, width = self.grid
        order = window_order(
            height, width, window_size=self.window_size, shift_size=self.shift_size, device=self.position.device
        )
        return order.regions[self.position]


def plan_packing(
    mask: Tensor,
    window_size: int,
    shift_size: int,
    mode: str = "stream",
    container_len: int | None = None,
    impl: str = "auto",
) -> Packing:
    """Plan the packing of the tokens selected by `mask` (B, H, W) bool.

    `stream` cuts the stream of all images every L tokens, so that only the last container has pads and an image may
    straddle containers (paper). `aligned` starts every image at a fresh container: an image's result is independent of
    its neighbours. L is `container_len`, by default window_size ** 2. Waits for the device once (the kernel) or twice.
    Raises ValueError for another mode, a length below 1, or a kernel that cannot run.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    length = window_size**2 if container_len is None else container_len
    if length < 1:
        raise ValueError(f"container_len must be at least 1, got {length}")
    batch, height, width = mask.shape
    order = window_order(height, width, window_size=window_size, shift_size=shift_size, device=mask.device)
    chosen = choose_impl("plan_packing", impl, mask.device)
    token_index, image_id, position, counts = (_compact_by_kernel if chosen == "kernel" else compact)(
        mask.flatten(1), order.cells
    )
    contiguous = mode == "stream" or batch == 1
    slot, num_containers = plan_slots(image_id, counts, length, contiguous=contiguous)
    return Packing(
        grid=(batch, height, width),
        window_size=window_size,
        shift_size=shift_size,
        container_len=length,
        num_containers=num_containers,
        contiguous=contiguous,
        token_index=token_index,
        image_id=image_id,
        position=position,
        slot=slot,
    )


def plan_windows(mask: Tensor, window_size: int, shift_size: int, impl: str = "auto") -> Packing:
    """Plan the windows in which a token of `mask` (B, H, W) bool lies: one container a window, each token at its cell.

    Windows are those of the grid shifted as Swin shifts it, by image and then by window; those without a token are left
    out. Cells without a selected token are the pads, anywhere in a container. Waits for the device.
    """
    length = window_size**2
    packing = plan_packing(mask, window_size, shift_size, "aligned", length, impl)
    order = window_order(*mask.shape[1:], window_size=window_size, shift_size=shift_size, device=mask.device)
    window = packing.image_id * order.num_windows + packing.windows  # ascending, as the tokens are
    active, container = torch.unique_consecutive(window, return_inverse=True)
    return replace(
        packing,
        num_containers=active.numel(),
        contiguous=packing.num_tokens == active.numel() * length,
        slot=container * length + packing.position % length,
    )


def _compact_by_kernel(mask: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `compact`, but with the counts on the host: the one wait for the device."""
    from sptcore.ops.packing import kernel

    *rows, counts = kernel.compact(mask, cells)
    counts = counts.cpu()
    token_index, image_id, position = (row[: int(counts.sum())] for row in rows)
    return token_index, image_id, position, counts


def split_containers(packing: Packing, containers: int) -> list[tuple[slice, Packing]]:
    """Runs of at most `containers` containers, each as a packing of its own, with the slice of tokens that it holds."""
    tokens = packing.num_tokens
    if packing.contiguous:
        first_tokens = [*range(0, tokens, containers * packing.container_len), tokens]
    else:
        first_tokens = [*packing.cu_seqlens[::containers].tolist(), tokens]
    runs = []
    for start, first in enumerate(range(0, packing.num_containers, containers)):
        rows = slice(first_tokens[start], first_tokens[start + 1])
        count = min(containers, packing.num_containers - first)
        runs.append((rows, _part(packing, rows, first, count)))
    return runs


def _part(packing: Packing, rows: slice, first: int, count: int) -> Packing:
    return replace(
        packing,
        num_containers=count,
        contiguous=packing.contiguous or _filled(packing, rows, first) == rows.stop - rows.start,
        token_index=packing.token_index[rows],
        image_id=packing.image_id[rows],
        position=packing.position[rows],
        slot=packing.slot[rows] - first * packing.container_len,
    )


def _filled(packing: Packing, rows: slice, first: int) -> int:
    """Slots up to the last token of a run of containers from `first` on; a run never starts with pads."""
    return int(packing.slot[rows.stop - 1]) + 1 - first * packing.container_len


def gather(grid: Tensor, packing: Packing) -> Tensor:
    """The selected tokens of a grid, (B, H, W, ...) -> (P, ...), in packing order. Its gradient is a plain scatter."""
    return gather_rows(grid.flatten(0, 2), packing.token_index)


def scatter(tokens: Tensor, packing: Packing) -> Tensor:
    """Put tokens back on their grid, (P, ...) -> (B, H, W, ...), zero at every other token."""
    batch, height, width = packing.grid
    grid = tokens.new_zeros(batch * height * width, *tokens.shape[1:])
    return grid.index_copy_(0, packing.token_index, tokens).unflatten(0, (batch, height, width))


def scatter_rows_(grid: Tensor, index: Tensor, rows: Tensor) -> None:
    """`grid[index] = rows` along the first axis, in place, indices without repeats; no gradient."""
    grid.index_copy_(0, index, rows.to(grid.dtype))


def pack(tokens: Tensor, packing: Packing) -> Tensor:
    """Lay tokens into their containers, (P, ...) -> (B', L, ...), zero in the pads."""
    slots = packing.num_containers * packing.container_len
    if packing.contiguous:
        pads = tokens.new_zeros(slots - packing.num_tokens, *tokens.shape[1:])
        containers = torch.cat([tokens, pads]) if len(pads) else tokens
    else:
        containers = tokens.new_zeros(slots, *tokens.shape[1:]).index_copy_(0, packing.slot, tokens)
    return containers.unflatten(0, (packing.num_containers, packing.container_len))


def unpack(containers: Tensor, packing: Packing) -> Tensor:
    """Take the tokens out of their containers, (B', L, ...) -> (P, ...); what the pads hold is dropped."""
    slots = containers.flatten(0, 1)
    return slots[: packing.num_tokens] if packing.contiguous else gather_rows(slots, packing.slot)
