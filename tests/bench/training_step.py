"""A training step, forward and backward: SPT against torchvision's Swin and our own, in time and in memory.

    python -m tests.bench.training_step                                  # Swin-T and S, batch 2: about 15 minutes
    python -m tests.bench.training_step --models t --contests pair --rounds 5 --json training.json

Two contests a size: the last block pair of stage 3 alone, and the whole backbone. All rivals share torchvision's
weights (random, no bias zero) and drop no path. Masks are blobs, uneven over the images of a batch of two or four up to
a ratio of a quarter. "recomputed": blocks keep their input only and are computed again in the backward pass
(`checkpoint_activations`). Memory is what a step holds at its worst moment beyond weights and input, and what remains
after it in gradients.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import swin_b, swin_s, swin_t
from torchvision.ops import StochasticDepth

from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.block import Block
from sptcore.models.recompute import recompute_blocks
from sptcore.models.selectors import TokenContext
from sptcore.models.variants import build_backbone
from sptcore.models.weights import load_torchvision_swin
from sptcore.profiling.forced import ForcedSelector, randomise_biases
from sptcore.profiling.macs import spa_places, stage_grids
from sptcore.profiling.passes import training_pass
from sptcore.profiling.rotation import draw_inputs
from sptcore.profiling.timing import measure, peak_memory
from tests.bench.contest import (
    Talking,
    draw_masks,
    finish,
    in_turn,
    inputs_of,
    pair,
    parser,
    protocol_of,
    provenance,
    show_sets,
    speed_ups,
    threads,
)

TORCHVISION = {"t": swin_t, "s": swin_s, "b": swin_b}
RATIOS = (0.05, 0.15, 0.25, 0.5, 1.0)
Calls = dict[str, Callable[[], object]]


class Rivals:
    """The networks of one size, with the same weights."""

    def __init__(self, size: str, inputs: Sequence[Tensor]) -> None:
        self.size, self.inputs, self.images = size, tuple(inputs), inputs[0]
        images = self.images
        torch.manual_seed(0)
        self.theirs = TORCHVISION[size](weights=None).to(images.device).train()
        for module in self.theirs.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0
        randomise_biases(self.theirs, torch.Generator().manual_seed(0))
        self.dense = self.ours(f"swin-{size}")
        self.spt = self.ours(f"spt-{size}")

    def ours(self, name: str) -> HierarchicalBackbone:
        model = build_backbone(name, drop_path=0.0)
        assert isinstance(model, HierarchicalBackbone)
        load_torchvision_swin(model, self.theirs.state_dict())
        return model.to(self.images.device).train()

    def whole(self) -> Calls:
        """Steps of whole backbones."""
        theirs = in_turn(self.inputs, lambda images: [self.theirs.features(images)])
        calls: Calls = {"torchvision": step(self.theirs, theirs), "dense": self.backbone_step(self.dense, None)}
        for ratio in RATIOS:
            calls[f"spt {ratio:g}"] = self.backbone_step(self.spt, draw_masks(self.spt, self.images, ratio))
        masks = draw_masks(self.spt, self.images, 0.25)
        calls["dense, recomputed"] = recomputed(self.dense, self.backbone_step(self.dense, None))
        calls["spt 0.25, recomputed"] = recomputed(self.spt, self.backbone_step(self.spt, masks))
        return calls

    def backbone_step(self, model: HierarchicalBackbone, masks: list[Tensor] | None) -> Callable[[], object]:
        forward = in_turn(self.inputs, lambda images: list(model(images).maps.values()))
        return training_pass(model, model, masks, forward, "off")

    def pair(self) -> Calls:
        """Steps of the last two blocks of stage 3, with a gradient for their input too."""
        height, width = stage_grids(*self.images.shape[-2:])[2]
        channels = self.dense.config.channels[2]
        inputs = draw_inputs((len(self.images), height, width, channels), self.images.device, seed=4)
        theirs = nn.Sequential(*self.theirs.features[5][-2:])
        calls: Calls = {"torchvision": step(theirs, in_turn(inputs, lambda x: [theirs(x.requires_grad_())]))}
        calls["dense"] = pair_step(list(self.dense.stages[2].blocks[-2:]), inputs, None)
        spt = list(self.spt.stages[2].blocks[-2:])
        last = [index for index, (stage, _) in enumerate(spa_places(self.spt.config)) if stage == 3][-2:]
        for ratio in RATIOS:
            masks = draw_masks(self.spt, self.images, ratio)
            calls[f"spt {ratio:g}"] = pair_step(spt, inputs, [masks[index] for index in last])
        masks = draw_masks(self.spt, self.images, 0.25)
        again = pair_step(spt, inputs, [masks[index] for index in last])
        calls["spt 0.25, recomputed"] = recomputed(self.spt, again)
        return calls


def step(model: nn.Module, forward: Callable[[], list[Tensor]]) -> Callable[[], object]:
    """Forward and backward from the mean of the outputs, as in `sptcore.profiling.passes.training_pass`."""

    def run() -> None:
        torch.stack([output.float().mean() for output in forward()]).sum().backward()
        model.zero_grad(set_to_none=True)

    return run


def pair_step(blocks: Sequence[Block], inputs: Sequence[Tensor], masks: list[Tensor] | None) -> Callable[[], object]:
    """A step of a few of our blocks, which select `masks`, on `inputs` (B, H, W, C) in turn."""
    both = nn.Sequential(*blocks)
    context = TokenContext(torch.ones(inputs[0].shape[:3], dtype=torch.bool, device=inputs[0].device))

    def forward(x: Tensor) -> list[Tensor]:
        tokens = x.requires_grad_()
        for block in blocks:
            tokens = block(tokens, context).tokens
        return [tokens]

    plain = step(both, in_turn(inputs, forward))

    def run() -> None:
        both.train()
        own = [block.selector for block in blocks]
        for block, mask in zip(blocks, masks or (), strict=masks is not None):
            assert block.selector is not None
            block.selector = ForcedSelector(block.selector, mask)
        try:
            plain()
        finally:
            for block, selector in zip(blocks, own, strict=True):
                block.selector = selector

    return run


def recomputed(model: nn.Module, call: Callable[[], object]) -> Callable[[], object]:
    """The same step with blocks computed again in the backward pass."""

    def run() -> None:
        recompute_blocks(model)
        try:
            call()
        finally:
            recompute_blocks(model, False)

    return run


def run_contest(calls: Calls, title: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times, then peak memory, of every rival."""
    device = torch.device(options.device)
    times = measure(calls, protocol_of(options), device=device, title=title, progress=Talking())
    rows = {
        name: timing.to_dict()
        | speed_ups(timing, times, ("torchvision", "dense"))
        | {"peak_bytes": peak_memory(calls[name], device)}
        for name, timing in times.items()
    }
    return {"title": title, "resolution": options.res, "rows": rows}


def show(result: dict[str, Any]) -> None:
    """Print a contest as a table."""
    print(f"\n{result['title']}, {result['resolution']}, training step, wall (CPU)")
    print(f"{'':24}{'x torchvision':>16}{'x dense':>16}{'p50 s':>9}{'min s':>9}{'max s':>9}{'busy':>6}{'peak MiB':>10}")
    for name, row in result["rows"].items():
        print(
            f"{name:24}{pair(row, 'x_torchvision'):>16}{pair(row, 'x_dense'):>16}{row['p50_s']:9.3f}{row['min_s']:9.3f}"
            f"{row['max_s']:9.3f}{row['stalled_rounds']:>6}{row['peak_bytes'] / 2**20:>10.0f}",
            flush=True,
        )
    show_sets(result)


CONTESTS: dict[str, tuple[str, Callable[[Rivals], Calls]]] = {
    "pair": ("block pair of stage 3", Rivals.pair),
    "backbone": ("backbone", Rivals.whole),
}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the contests and write what they came to."""
    made = parser(__doc__, models="t,s", batch="2", rounds=5)
    made.add_argument("--contests", default="pair,backbone", help="of pair, backbone")
    options = made.parse_args(arguments)
    with threads(options.threads):
        found = provenance(options)
        for size in options.models.split(","):
            for batch in map(int, options.batch.split(",")):
                rivals = Rivals(size, inputs_of(options, batch))
                for wanted in options.contests.split(","):
                    name, calls = CONTESTS[wanted]
                    title = f"Swin-{size.upper()}, batch {batch}, {name}"
                    contest = run_contest(calls(rivals), title, options) | {"input_sets": len(rivals.inputs)}
                    found["contests"].append(contest)
                    show(found["contests"][-1])
    return finish(found, options)


if __name__ == "__main__":
    main()
