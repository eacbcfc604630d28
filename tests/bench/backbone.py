"""Backbones at 1280 x 800: torchvision's Swin, our dense Swin, SPT at five select ratios, and SPT's alternatives.

    python -m tests.bench.backbone                                       # Swin-T and S, batch 1 and 4: about 25 minutes
    python -m tests.bench.backbone --models t --batch 1 --res 512x320 --rounds 5
    python -m tests.bench.backbone --threads 1 --device cpu --json backbone.json
    python -m tests.bench.backbone --models s --batch 4
    python -m tests.bench.backbone --models s --batch 1 --compiled       # torch.compile of four rivals too

All rivals share torchvision's weights (random, no bias zero), take turns in one process, and are compared by the median
of their rounds. Ratios against torchvision and against our own dense Swin come first, seconds second. "achieved" is the
speed-up over our dense Swin divided by the ratio of their multiply-accumulates. The dense outputs are checked against
torchvision before the clock starts: a speed-up of something else is none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torchvision.models import swin_b, swin_s, swin_t

from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.variants import build_backbone
from sptcore.models.weights import load_torchvision_swin
from sptcore.profiling.forced import randomise_biases
from sptcore.profiling.macs import backbone_macs, spa_places, total
from sptcore.profiling.passes import inference_pass
from sptcore.profiling.timing import Timing, measure
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
from tests.bench.rivals import attention_parts, packing_shares, use_mask_only, use_pad_to_max

TORCHVISION = {"t": swin_t, "s": swin_s, "b": swin_b}
RATIOS = (0.05, 0.15, 0.25, 0.5, 1.0)
COMPILED = ("dense", "spt 0.25", "spt 0.25, ffn selected")
TOLERANCE = 1e-4


class Contest:
    """The rivals of one size and batch: calls to time, and what they multiply."""

    def __init__(self, size: str, inputs: Sequence[Tensor], *, compiled: bool = False) -> None:
        self.inputs, self.images, self.compiled = tuple(inputs), inputs[0], compiled
        images = self.images
        self.calls: dict[str, Callable[[], object]] = {}
        self.macs: dict[str, int] = {}
        torch.manual_seed(0)
        self.theirs = TORCHVISION[size](weights=None).to(images.device).eval()
        randomise_biases(self.theirs, torch.Generator().manual_seed(0))
        self.dense = self.ours(f"swin-{size}")
        self.add_torchvision()
        self.add("dense", self.dense, None)
        plain = self.ours(f"spt-{size}")
        for ratio in RATIOS:
            self.add(f"spt {ratio:g}", plain, ratio)
        self.add("spt 0.25, no position bias", self.ours(f"spt-{size}", rpb="none"), 0.25)
        self.add("spt 0.25, ffn selected", self.ours(f"spt-{size}", ffn="selected"), 0.25)
        self.add("pad-to-max 0.25", use_pad_to_max(self.ours(f"spt-{size}")), 0.25, counted=False)
        self.add("mask-only 0.25", use_mask_only(self.ours(f"spt-{size}")), 0.25, counted=False)
        self.add("dynamicswin 0.25", self.ours(f"dynamicswin-{size}"), 0.25)

    def ours(self, name: str, **settings: Any) -> HierarchicalBackbone:
        """Our backbone with torchvision's weights; gates fresh."""
        model = build_backbone(name, **settings)
        state = self.theirs.state_dict()
        if settings.get("rpb") == "none":
            last = {f"features.{2 * stage - 1}.{block - 1}." for stage, block in spa_places(model.config)}
            state = {key: value for key, value in state.items() if not drops_table(key, last)}
        load_torchvision_swin(model, state)
        return model.to(self.images.device).eval()

    def add_torchvision(self) -> None:
        self.calls["torchvision"] = self.theirs_pass(self.theirs.features)
        if self.compiled:
            self.calls["torchvision, compiled"] = self.theirs_pass(torch.compile(self.theirs.features, dynamic=False))
        self.macs["torchvision"] = total(self.stages(self.dense, None))[1]  # its windows are padded, as in the paper

    def theirs_pass(self, features: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return torch.inference_mode()(in_turn(self.inputs, features))

    def add(self, name: str, model: HierarchicalBackbone, ratio: float | None, *, counted: bool = True) -> None:
        masks = None if ratio is None else draw_masks(model, self.images, ratio)

        self.calls[name] = self.ours_pass(model, model, masks)
        if self.compiled and name in COMPILED:
            self.calls[f"{name}, compiled"] = self.ours_pass(torch.compile(model, dynamic=False), model, masks)
        if counted:
            self.macs[name] = total(self.stages(model, masks))[0]

    def ours_pass(self, runs: Any, model: HierarchicalBackbone, masks: list[Tensor] | None) -> Callable[[], object]:
        forward = in_turn(self.inputs, lambda images: list(runs(images).maps.values()))
        return inference_pass(model, masks, forward, "off")

    def stages(self, model: HierarchicalBackbone, masks: list[Tensor] | None) -> Any:
        counts = [mask.flatten(1).sum(1).tolist() for mask in masks or ()]
        height, width = self.images.shape[-2:]
        return backbone_macs(model.config, height, width, batch=len(self.images), counts=counts)

    def compile(self) -> dict[str, dict[str, float]]:
        """Call the compiled rivals once, before the clock starts: seconds of the first call, graphs it made."""
        found = {}
        for name, call in self.calls.items():
            if name.endswith(", compiled"):
                graphs, started = counters["stats"]["unique_graphs"], time.perf_counter()
                call()
                seconds = time.perf_counter() - started
                found[name] = {"compile_s": seconds, "graphs": counters["stats"]["unique_graphs"] - graphs}
        return found

    @torch.inference_mode()
    def largest_difference(self) -> float:
        """Between torchvision's last map, normed, and our dense one."""
        theirs = self.theirs.norm(self.theirs.features(self.images)).permute(0, 3, 1, 2)
        return float((theirs - self.dense(self.images).maps["3"]).abs().max())


def drops_table(key: str, blocks: Iterable[str]) -> bool:
    """Whether `key` is the position bias table of one of `blocks`, which a model without biases lacks."""
    return key.endswith("relative_position_bias_table") and any(key.startswith(block) for block in blocks)


def run_contest(size: str, batch: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time all rivals of a size and batch, and say how they compare."""
    torch._dynamo.reset()  # else contests add up to more graphs of one function than torch keeps
    inputs = inputs_of(options, batch)
    images = inputs[0]
    contest = Contest(size, inputs, compiled=options.compiled)
    difference = contest.largest_difference()
    assert difference < TOLERANCE, f"our dense Swin is not torchvision's: largest difference {difference}"
    compiling = contest.compile()
    title = f"swin-{size}, batch {batch}"
    times = measure(contest.calls, protocol_of(options), device=device, title=title, progress=Talking())
    spt = contest.ours(f"spt-{size}")
    shares = packing_shares(spt, draw_masks(spt, images, 0.25), images)
    rows = {
        name: compare(timing, times, contest.macs.get(name), contest.macs) | compiling.get(name, {})
        for name, timing in times.items()
    }
    return {
        "model": size,
        "batch": batch,
        "resolution": options.res,
        "input_sets": len(inputs),
        "largest_difference": difference,
        "packing_share_0.25": sum(shares.values()),
        "packing_shares_0.25": shares,
        "rows": rows,
        "attention_part": attention_contest(spt, images, options) if batch == 4 else None,
    }


def attention_contest(spt: HierarchicalBackbone, images: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Attention and projection of a block of stage 3 alone: packed, against padded to the longest image."""
    place = next(index for index, (stage, _) in enumerate(spa_places(spt.config)) if stage == 3)
    calls = attention_parts(spt, draw_masks(spt, images, 0.25)[place], place)
    times = measure(calls, protocol_of(options), device=images.device, title="attention of stage 3", progress=Talking())
    return {name: timing.to_dict() | speed_ups(timing, times, ("pad-to-max",)) for name, timing in times.items()}


def compare(timing: Timing, times: dict[str, Timing], macs: int | None, all_macs: dict[str, int]) -> dict[str, Any]:
    """One rival against torchvision and against our dense Swin, by wall and by processor time."""
    dense = times["dense"]
    speed = dense.median / timing.median
    ideal = None if macs is None else all_macs["dense"] / macs
    return {
        **speed_ups(timing, times, ("torchvision", "dense")),
        "ideal_x_dense": ideal,
        "achieved": None if ideal is None else speed / ideal,
        "achieved_cpu": None if ideal is None else dense.cpu_median / timing.cpu_median / ideal,
        "gmacs": None if macs is None else macs / 1e9,
        **timing.to_dict(),
    }


def show(result: dict[str, Any]) -> None:
    """Print a contest as a table."""
    print(f"\nSwin-{result['model'].upper()}, batch {result['batch']}, {result['resolution']}, wall (CPU)")
    print(f"{'':34}{'x torchvision':>16}{'x dense':>16}{'achieved':>16}{'p50 s':>9}{'min s':>9}{'max s':>9}{'busy':>6}")
    for name, row in result["rows"].items():
        print(
            f"{name:34}{pair(row, 'x_torchvision'):>16}{pair(row, 'x_dense'):>16}{pair(row, 'achieved'):>16}"
            f"{row['p50_s']:9.3f}{row['min_s']:9.3f}{row['max_s']:9.3f}{row['stalled_rounds']:>6}"
        )
    for name, row in result["rows"].items():
        if "compile_s" in row:
            print(f"{name}: compiled in {row['compile_s']:.1f} s, {row['graphs']} graph{'s' * (row['graphs'] != 1)}")
    show_sets(result)
    shares = ", ".join(f"{name} {100 * share:.2f} %" for name, share in result["packing_shares_0.25"].items())
    print(f"of the backbone at 0.25: {shares}; together {100 * result['packing_share_0.25']:.1f} %")
    for name, row in (result["attention_part"] or {}).items():
        print(f"attention of stage 3, {name:12} {1e3 * row['p50_s']:.1f} ms, x pad-to-max {pair(row, 'x_pad-to-max')}")
    print(f"largest difference of the dense outputs: {result['largest_difference']:.1e}", flush=True)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the contests and write what they came to."""
    made = parser(__doc__, models="t,s", batch="1,4")
    made.add_argument("--compiled", action="store_true", help="with torch.compile of four rivals (minutes each)")
    options = made.parse_args(arguments)
    device = torch.device(options.device)
    with threads(options.threads):
        found = provenance(options)
        for size in options.models.split(","):
            for batch in map(int, options.batch.split(",")):
                found["contests"].append(run_contest(size, batch, options, device))
                show(found["contests"][-1])
    return finish(found, options)


if __name__ == "__main__":
    main()
