"""Backbones at 1280 x 800: torchvision's Swin, our dense Swin, SPT at five select ratios, and SPT's alternatives.

    python -m tests.bench.backbone                                       # Swin-T and S, batch 1 and 4: about 25 minutes
    python -m tests.bench.backbone --models t --batch 1 --res 512x320 --rounds 5
    python -m tests.bench.backbone --threads 1 --device cpu --json backbone.json

All rivals share torchvision's weights (random, no bias zero), take turns in one process, and are compared by the median
of their rounds. Ratios against torchvision and against our own dense Swin come first, seconds second. "achieved" is the
speed-up over our dense Swin divided by the ratio of their multiply-accumulates. The dense outputs are checked against
torchvision before the clock starts: a speed-up of something else is none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import swin_b, swin_s, swin_t

from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.variants import build_backbone
from sptcore.models.weights import load_torchvision_swin
from sptcore.profiling.forced import blob_masks, randomise_biases
from sptcore.profiling.macs import backbone_macs, spa_places, stage_grids, total
from sptcore.profiling.passes import inference_pass
from sptcore.profiling.timing import Protocol, Timing, environment, measure
from sptcore.progress import Silent
from tests.bench.rivals import packing_share, use_mask_only, use_pad_to_max

TORCHVISION = {"t": swin_t, "s": swin_s, "b": swin_b}
RATIOS = (0.05, 0.15, 0.25, 0.5, 1.0)
UNEVEN = (0.2, 0.6, 1.0, 2.2)  # times the mean ratio, over four images, up to a ratio of a quarter
TOLERANCE = 1e-4


class Talking(Silent):
    """One line a stage on stderr."""

    def start(self, title: str, total: int | None) -> None:
        print(f"  {title}, {total} passes", flush=True)


def image_ratios(ratio: float, batch: int) -> list[float]:
    """The ratio of each image: uneven in a batch of four up to a quarter, else the same for all."""
    return [ratio * share for share in UNEVEN] if batch == 4 and ratio <= 0.25 else [ratio] * batch


def draw_masks(model: HierarchicalBackbone, images: Tensor, ratio: float) -> list[Tensor]:
    """Blobs of exactly the wanted size, another one in every block."""
    generator = torch.Generator().manual_seed(1)
    grids = stage_grids(images.shape[-2], images.shape[-1])
    shares = image_ratios(ratio, len(images))
    places = spa_places(model.config)
    return [blob_masks(len(images), grids[stage - 1], shares, generator).to(images.device) for stage, _ in places]


class Contest:
    """The rivals of one size and batch: calls to time, and what they multiply."""

    def __init__(self, size: str, images: Tensor) -> None:
        self.images = images
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
        @torch.inference_mode()
        def run() -> None:
            self.theirs.features(self.images)

        self.calls["torchvision"] = run
        self.macs["torchvision"] = total(self.stages(self.dense, None))[1]  # its windows are padded, as in the paper

    def add(self, name: str, model: HierarchicalBackbone, ratio: float | None, *, counted: bool = True) -> None:
        masks = None if ratio is None else draw_masks(model, self.images, ratio)

        def forward() -> list[Tensor]:
            return list(model(self.images).maps.values())

        self.calls[name] = inference_pass(model, masks, forward, "off")
        if counted:
            self.macs[name] = total(self.stages(model, masks))[0]

    def stages(self, model: HierarchicalBackbone, masks: list[Tensor] | None) -> Any:
        counts = [mask.flatten(1).sum(1).tolist() for mask in masks or ()]
        height, width = self.images.shape[-2:]
        return backbone_macs(model.config, height, width, batch=len(self.images), counts=counts)

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
    width, height = (int(side) for side in options.res.split("x"))
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2)).to(device)
    contest = Contest(size, images)
    difference = contest.largest_difference()
    assert difference < TOLERANCE, f"our dense Swin is not torchvision's: largest difference {difference}"
    protocol = Protocol(warmup=options.warmup, rounds=options.rounds)
    times = measure(contest.calls, protocol, device=device, title=f"swin-{size}, batch {batch}", progress=Talking())
    spt = contest.ours(f"spt-{size}")
    share = packing_share(spt, draw_masks(spt, images, 0.25), images)
    rows = {name: compare(timing, times, contest.macs.get(name), contest.macs) for name, timing in times.items()}
    return {
        "model": size,
        "batch": batch,
        "resolution": options.res,
        "largest_difference": difference,
        "packing_share_0.25": share,
        "rows": rows,
    }


def compare(timing: Timing, times: dict[str, Timing], macs: int | None, all_macs: dict[str, int]) -> dict[str, Any]:
    """One rival against torchvision and against our dense Swin, by wall and by processor time."""
    dense, torchvision = times["dense"], times["torchvision"]
    speed = dense.median / timing.median
    ideal = None if macs is None else all_macs["dense"] / macs
    return {
        "x_torchvision": torchvision.median / timing.median,
        "x_dense": speed,
        "x_torchvision_cpu": torchvision.cpu_median / timing.cpu_median,
        "x_dense_cpu": dense.cpu_median / timing.cpu_median,
        "ideal_x_dense": ideal,
        "achieved": None if ideal is None else speed / ideal,
        "achieved_cpu": None if ideal is None else dense.cpu_median / timing.cpu_median / ideal,
        "gmacs": None if macs is None else macs / 1e9,
        **timing.to_dict(),
    }


def show(result: dict[str, Any]) -> None:
    """Print a contest as a table."""
    print(f"\nSwin-{result['model'].upper()}, batch {result['batch']}, {result['resolution']}, wall (CPU)")
    print(f"{'':28}{'x torchvision':>16}{'x dense':>16}{'achieved':>16}{'p50 s':>9}{'min s':>9}{'max s':>9}{'busy':>6}")
    for name, row in result["rows"].items():
        print(
            f"{name:28}{pair(row, 'x_torchvision'):>16}{pair(row, 'x_dense'):>16}{pair(row, 'achieved'):>16}"
            f"{row['p50_s']:9.3f}{row['min_s']:9.3f}{row['max_s']:9.3f}{row['stalled_rounds']:>6}"
        )
    print(f"planning, gathering and scattering at 0.25: {100 * result['packing_share_0.25']:.1f} % of the backbone")
    print(f"largest difference of the dense outputs: {result['largest_difference']:.1e}", flush=True)


def pair(row: dict[str, Any], name: str) -> str:
    return "-" if row[name] is None else f"{row[name]:.2f} ({row[f'{name}_cpu']:.2f})"


@contextmanager
def threads(count: int | None):
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the contests and write what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="t,s", help="of t, s, b")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--res", default="1280x800", help="width x height")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write everything here too")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    with threads(options.threads):
        found = {"environment": environment(device), "warmup": options.warmup, "contests": []}
        for size in options.models.split(","):
            for batch in map(int, options.batch.split(",")):
                found["contests"].append(run_contest(size, batch, options, device))
                show(found["contests"][-1])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print({key: value for key, value in found["environment"].items() if value is not None})
    return found


if __name__ == "__main__":
    main()
