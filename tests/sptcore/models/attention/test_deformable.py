"""DAT's deformable attention: where it looks, what it reads there, what moves it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sptcore.errors import UsageError
from sptcore.models.attention import deformable
from sptcore.models.attention.deformable import DeformableAttention, reference_places, sample
from sptcore.models.attention.window import WindowAttention
from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.config import BackboneConfig
from sptcore.models.variants import backbone_config, build_backbone
from sptcore.profiling.timing import peak_memory
from tests.support.networks import randomise, small_config, tokens
from tests.support.numerics import assert_differs, assert_same

DIM, HEADS = 64, 8


def attention(dtype: torch.dtype = torch.float32, *, still: bool = False) -> DeformableAttention:
    """Stage 3 with two groups; `still`: no offsets."""
    one = DeformableAttention(DIM, HEADS, 0, BackboneConfig(embed_dim=16, num_heads=(2, 4, 8, 16)))
    randomise(one)
    if still:
        torch.nn.init.zeros_(one.offsets.fc.weight)
    return one.to(dtype).eval()


def by_loops(one: DeformableAttention, x: torch.Tensor) -> torch.Tensor:
    """The same of one image (H, W, C), pair by pair, with bilinear weights written out."""
    height, width, dim = x.shape
    size, share = dim // one.groups, HEADS // one.groups
    query = F.linear(x, one.qkv.weight[:dim], one.qkv.bias[:dim])
    out = torch.zeros(height * width, dim, dtype=x.dtype)
    sampled, places = torch.zeros(height * width, dim, dtype=x.dtype), []
    for group in range(one.groups):
        part = slice(group * size, (group + 1) * size)
        moved = one.offsets(query[..., part].permute(2, 0, 1)[None])[0]
        place = (reference_places(height, width, x.device).to(x.dtype) + moved).reshape(-1, 2)
        places.append(place)
        for number, (row, column) in enumerate(place.tolist()):
            sampled[number, part] = bilinear(x[..., part], row, column)
    key, value = F.linear(sampled, one.qkv.weight[dim:], one.qkv.bias[dim:]).chunk(2, dim=-1)
    grid = reference_places(height, width, x.device).to(x.dtype).reshape(-1, 2)
    for head in range(HEADS):
        part = slice(head * dim // HEADS, (head + 1) * dim // HEADS)
        table = one.relative_position_bias_table[head][..., None]
        far = (grid[:, None] - places[head // share][None]) / 2
        bias = torch.stack([torch.stack([bilinear(table, *pair.tolist())[0] for pair in row]) for row in far])
        scores = query.reshape(-1, dim)[:, part] @ key[:, part].T / (dim // HEADS) ** 0.5 + bias
        out[:, part] = scores.softmax(-1) @ value[:, part]
    return out.view(height, width, dim)


def bilinear(grid: torch.Tensor, row: float, column: float) -> torch.Tensor:
    """The value of `grid` (H, W, C) at a place where -1 and 1 are the outer cells; zero outside."""
    height, width = grid.shape[:2]
    y, x = (row + 1) / 2 * (height - 1), (column + 1) / 2 * (width - 1)
    total = torch.zeros(grid.shape[2], dtype=grid.dtype)
    for i in (int(y // 1), int(y // 1) + 1):
        for j in (int(x // 1), int(x // 1) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += grid[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


@torch.no_grad()
def test_it_is_what_the_loops_say():
    one, x = attention(torch.float64), tokens(1, 4, 5, DIM, dtype=torch.float64)
    assert one.groups == 2
    assert_same(one(x).tokens[0], by_loops(one, x[0]), tolerance=1e-5)


@torch.no_grad()
def test_sampling_at_zero_offset_is_a_plain_grid_sample():
    """The reference places lie between the tokens, so that this is not attention to the tokens themselves."""
    one, x = attention(torch.float64, still=True), tokens(2, 6, 9, DIM, dtype=torch.float64)
    rows, columns = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in (6, 9))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1).double()
    read = F.grid_sample(x.permute(0, 3, 1, 2), grid.expand(2, -1, -1, -1), align_corners=True).flatten(2).mT
    query = F.linear(x.flatten(1, 2), one.qkv.weight[:DIM], one.qkv.bias[:DIM])
    key, value = F.linear(read, one.qkv.weight[DIM:], one.qkv.bias[DIM:]).chunk(2, -1)
    far = ((grid.flatten(0, 1)[:, None] - grid.flatten(0, 1)[None]) / 2).expand(HEADS, -1, -1, -1)
    bias = F.grid_sample(one.relative_position_bias_table[:, None], far, align_corners=True).squeeze(1)
    heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (query, key, value)]
    expected = F.scaled_dot_product_attention(*heads, attn_mask=bias.expand(2, -1, -1, -1)).transpose(1, 2)
    assert_same(one(x).tokens, expected.reshape(x.shape), tolerance=1e-6)
    assert_differs(attention(torch.float64)(x).tokens, one(x).tokens)
    assert_differs(read.view(x.shape), x)


@torch.no_grad()
def test_offsets_stay_within_two_tokens():
    one = attention()
    one.offsets.fc.weight.mul_(100)
    moved = one.offsets(tokens(3, DIM // 2, 7, 11)) * torch.tensor([7.0, 11.0])
    assert moved.shape == (3, 7, 11, 2)
    assert moved.abs().max() <= deformable.OFFSET_RANGE
    assert moved.abs().max() > 1.9


@torch.no_grad()
def test_pieces_change_nothing(monkeypatch):
    one, x = attention(), tokens(2, 6, 9, DIM)
    whole = one(x).tokens
    monkeypatch.setattr(deformable, "PAIRS_AT_ONCE", 54 * 5)
    assert_same(one(x).tokens, whole, tolerance=1e-6)


def gradients(one: DeformableAttention, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a training step of the layer computes: its tokens, and the gradient of input and every parameter."""
    x = x.clone().requires_grad_()
    output = one.train()(x).tokens
    used = {name: value for name, value in one.named_parameters() if not name.startswith("proj")}  # by the block
    named = {"input": x, **used}
    found = torch.autograd.grad(output.pow(3).sum(), [*named.values()])
    return {"output": output.detach(), **dict(zip(named, found, strict=True))}


def test_a_training_step_in_pieces_has_the_same_gradients(monkeypatch):
    one, x = attention(torch.float64), tokens(2, 6, 9, DIM, dtype=torch.float64)
    whole = gradients(one, x)
    monkeypatch.setattr(deformable, "pairs_at_once", lambda device: 2 * HEADS * 54 * 5)
    for name, value in gradients(one, x).items():
        assert_same(value, whole[name], tolerance=1e-6)  # biases are sampled in float32
        assert value.any(), name


def test_training_does_not_hold_every_pair(monkeypatch):
    """16 heads of 24 x 24 tokens: one matrix of pairs takes 20 MiB, and several were held until the backward pass."""
    one = DeformableAttention(DIM, 16, 0, BackboneConfig(embed_dim=16, num_heads=(2, 4, 16, 32)))
    x = tokens(1, 24, 24, DIM).requires_grad_()
    peaks = []
    for pairs in (1 << 24, 1 << 19):
        monkeypatch.setattr(deformable, "pairs_at_once", lambda device, pairs=pairs: pairs)
        peaks.append(peak_memory(lambda: one(x).tokens.sum().backward()))
    assert peaks[1] < 0.25 * peaks[0]


def test_gradients_reach_offsets_and_table():
    one, x = attention().train(), tokens(2, 5, 7, DIM).requires_grad_()
    one(x).tokens.square().sum().backward()
    wanted = ("offsets.conv.weight", "offsets.fc.weight", "relative_position_bias_table", "qkv.weight")
    gradients = dict(one.named_parameters())
    assert all(gradients[name].grad is not None and gradients[name].grad.abs().sum() > 0 for name in wanted)
    assert x.grad is not None


@pytest.mark.parametrize("size", [(64, 80), (70, 45), (5, 130), (1, 1)])
@pytest.mark.parametrize("training", [False, True])
def test_a_backbone_takes_any_size(size, training):
    model = randomise(HierarchicalBackbone(small_config(num_spa_blocks=0, deformable_stages=(3, 4)))).train(training)
    features = model(tokens(2, 3, *size), torch.tensor([size, [max(1, size[0] // 2), size[1]]]))
    for stride, value in zip(model.strides, features.maps.values(), strict=True):
        assert value.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))
        assert value.isfinite().all()
    assert features.selections == ()


def test_every_parameter_of_the_backbone_gets_a_gradient():
    model = randomise(build_backbone("dat-nano")).train()
    sum(value.pow(3).mean() for value in model(tokens(2, 3, 96, 128)).maps.values()).backward()
    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_local_shifted_and_deformable_blocks_alternate():
    stages = build_backbone("dat-t").stages
    kinds = [[type(block.attn) for block in stage.blocks] for stage in stages]
    window, deforms = WindowAttention, DeformableAttention
    assert kinds == [[window] * 2, [window] * 2, [window, deforms] * 3, [window, deforms]]
    assert stages[0].blocks[1].attn.shift_size == 3
    assert [block.attn.shift_size for block in stages[2].blocks[::2]] == [0] * 3
    assert [stage.blocks[1].attn.groups for stage in stages[2:]] == [3, 6]
    assert [stage.blocks[1].attn.relative_position_bias_table.shape for stage in stages[2:]] == [
        (12, 27, 27),
        (24, 13, 13),
    ]
    assert [stage.blocks[1].attn.offsets.conv.kernel_size for stage in stages[2:]] == [(5, 5), (3, 3)]


@pytest.mark.parametrize(("size", "millions", "head"), [("t", 29, 769_000), ("s", 50, 769_000), ("b", 88, 1_025_000)])
def test_as_many_parameters_as_published(size, millions, head):
    """With a head of 1000 classes, to the million or just below."""
    with torch.device("meta"):
        count = sum(one.numel() for one in build_backbone(f"dat-{size}", out_stages=(4,)).parameters()) + head
    assert millions - 1 < count / 1e6 <= millions


@torch.no_grad()
def test_sampling_is_zero_outside():
    maps = torch.ones(1, 1, 3, 3)
    assert sample(maps, torch.tensor([[[[0.0, 0.0], [0.0, 1.0], [0.0, 4.0]]]])).flatten().tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "changes", [{"deformable_stages": (4, 3)}, {"deformable_stages": (5,)}, {"attention": "deformable"}]
)
def test_settings_that_do_not_exist(changes):
    with pytest.raises(UsageError, match="deformable_stages"):
        backbone_config("dat-t", **changes)
