"""`spt profile`: what models cost, by formula, by count and by clock."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sptcli import options
from sptcli.console import tables
from sptcli.session import Session

if TYPE_CHECKING:
    from sptcore.profiling.tables import Grid

EXAMPLES = (
    "spt profile --res 1280x800",
    "spt profile --model swin-s,spt-s --ratio 0.1:1.0:0.1 --no-latency",
    "spt profile --weights last --data sample --by stage --out profile.md",
)
PAPER_SIZE = options.Size(1280, 800)
AUTO = options.Numbers()
DEFAULT_MODELS = options.Names(("swin-t", "spt-t"))


def parse_ratios(text: str | options.Numbers) -> options.Numbers:
    """`auto` (no numbers), `0.3`, `.1,.3` or `first:last:step`, last included; each between 0 and 1."""
    if isinstance(text, options.Numbers) or text == "auto":
        return text if isinstance(text, options.Numbers) else options.Numbers()
    ratios = options.Numbers(ratio for part in text.split(",") for ratio in _ratios_of(part))
    if not all(0 <= ratio <= 1 for ratio in ratios):
        raise typer.BadParameter(f"{text!r}: a select ratio lies between 0 and 1")
    return ratios


def _ratios_of(part: str) -> options.Numbers:
    """One number, or those of `first:last:step`."""
    bounds = part.split(":")
    if len(bounds) != 3:
        return options.parse_numbers(part)
    first, last, step = options.parse_numbers(",".join(bounds))
    if step <= 0 or last < first:
        raise typer.BadParameter(f"{part!r}: first:last:step rises from first to last")
    return options.Numbers(round(first + step * n, 9) for n in range(math.floor((last - first) / step + 1e-9) + 1))


def command(
    ctx: typer.Context,
    res: Annotated[
        options.Size, typer.Option("--res", parser=options.parse_size, metavar="WxH", help="input resolution")
    ] = PAPER_SIZE,
    model: Annotated[
        options.Names, typer.Option("--model", parser=options.parse_names, metavar="NAME,..", help="see: spt models")
    ] = DEFAULT_MODELS,
    ratio: Annotated[
        options.Numbers,
        typer.Option("--ratio", parser=parse_ratios, metavar="R,..|A:B:STEP", help="auto, or forced ratios"),
    ] = AUTO,
    scope: Annotated[
        Literal["both", "backbone", "detector"], typer.Option("--scope", help="the clock runs on the first")
    ] = "both",
    by: Annotated[
        Literal["none", "component", "stage", "block", "part", "op"], typer.Option("--by", help="split the MACs")
    ] = "none",
    batch: Annotated[int, typer.Option("--batch", min=1, help="images of one pass")] = 1,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="run the clock, or count only")] = True,
    compile: Annotated[
        bool, typer.Option("--compile", help="time backbones as torch.compile makes them (on a CPU: slower)")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="time a forward and backward pass too")] = False,
    warmup: Annotated[int | None, typer.Option("--warmup", min=0, help="rounds not counted (GPU 10, CPU 1)")] = None,
    iters: Annotated[
        int | None, typer.Option("--iters", min=1, help="rounds (GPU 50; CPU: what a minute allows, at least 3)")
    ] = None,
    device: options.Device = "auto",
    amp: Annotated[Literal["off", "bf16", "fp16"], typer.Option("--amp", help="autocast to this type")] = "off",
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="RUN|FILE", help="profile a trained model at its own ratios")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="take select ratios from these images")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="images that ratios are taken from")] = 32,
    classes: Annotated[
        int | None, typer.Option("--classes", min=1, help="categories of the heads (80; with --weights, theirs)")
    ] = None,
    heads: Annotated[
        Literal["auto", "standard", "small"],
        typer.Option("--heads", help="of every detector; auto: small for nano models, beside --weights those"),
    ] = "auto",
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help=".csv, .md or .json")] = None,
    split: options.Split = "val",
    root: options.Root = None,
    ann: options.Ann = None,
    format: options.Format = "auto",
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    allow_truncated: options.AllowTruncated = False,
    size: options.AnnotatedSize = None,
) -> None:
    """Print parameters, multiply-accumulates, latency and peak memory of models at a resolution and select ratio.

    GMACs are per image, of what this code runs; beside them the paper's count (Swin's windows padded, Eq. 9; its FLOPs
    are MACs, ours are 2 MACs) and the count of torch's counter. Fresh gates select everything, so --ratio auto forces
    .1 .22 .3 .5 1 with random blobs (a model of a stated share: that); --data adds the ratio its labels ask for,
    --weights what trained gates select.
    Rivals take turns in one process; their ratio holds, their seconds are this machine's.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch loads: its profiler talks on stderr otherwise
    from sptcore.profiling.job import SCOPES, ProfileRequest, profile, protocol_for
    from sptcore.profiling.plan import DataChoice, ProfilePlan, rival_of, subjects
    from sptcore.profiling.subjects import Setting
    from sptcore.profiling.tables import check_suffix, grids, to_dict, write_report
    from sptcore.runs.device import pick_device

    session = Session.of(ctx)
    if out is not None:
        check_suffix(out)
    where = pick_device(device)
    reading = {"root": root, "ann": ann, "format": format, "strict": strict, "follow_symlinks": follow_symlinks}
    chosen = DataChoice(data, split, limit, tuple({**reading, "size": size}.items()), allow_truncated) if data else None
    models = tuple(model) if session.explicit("model") else rival_of(model, weights)
    plan = ProfilePlan(models, (res.width, res.height), tuple(ratio), weights, chosen, classes, heads)
    breakdown = None if by == "none" else by
    request = ProfileRequest(
        subjects(plan, where, session.progress),
        Setting("backbone", res.height, res.width, batch, where, amp, seed, compile),
        SCOPES if scope == "both" else (scope,),
        latency,
        train,
        protocol_for(where, warmup, iters),
        breakdown or "component",
    )
    report = profile(request, session.progress)
    session.show(to_dict(report), *(view for one in grids(report, by=breakdown) for view in _views(one)))
    for remark in _remarks(report):
        session.note(remark)
    if out is not None:
        write_report(report, out, by=breakdown)
    session.finish(artefacts={} if out is None else {"profile": out}, next=_next(weights, models))


def _views(grid: Grid) -> list[Any]:
    """The table, in parts where the screen is narrow, and its footnotes below it."""
    keys = 2 if grid.columns[:2] == ["model", "select ratio"] else 1
    below = "".join(f"{note}\n" for note in grid.footnotes)
    return [*tables(grid.columns, grid.rows, keys=keys, title=grid.title), *filter(None, [below])]


def _next(weights: str | None, models: tuple[str, ...]) -> str:
    if weights is not None:
        return f"spt report {shlex.quote(weights)}"
    return f"spt train --model {models[-1]}"


def _remarks(report: Any) -> list[str]:
    """What was run, and what a person should know before quoting it."""
    timed = [one for row in report.rows for one in (row.latency, row.train) if one is not None]
    remarks = []
    if timed:
        where = report.environment
        rounds = " and ".join(str(count) for count in sorted({timing.rounds for timing in timed}))
        stalled = max(timing.stalled_rounds for timing in timed)
        sets = "the same input" if report.input_sets == 1 else f"{report.input_sets} input sets in turn"
        remarks.append(
            f"timed: {rounds} interleaved rounds on {where['device']}, {where['threads']} threads, {sets}, median"
        )
        if stalled:
            remarks.append(
                f"in up to {stalled} of {rounds} rounds threads waited for a busy processor: trust CPU ms more"
            )
    if len(report.heads) > 1:
        remarks.append(f"detectors have {' and '.join(report.heads)} heads: compare with the same, --heads standard")
    if not report.miscounted:
        remarks.append("torch's counter agrees with the formula in every row")
    else:
        remarks.append(f"formula and counter disagree for {', '.join(report.miscounted)}: please report it")
    return remarks
