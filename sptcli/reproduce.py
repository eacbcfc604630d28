"""`spt reproduce`: the paper's tables and figures as run plans."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sptcli import options
from sptcli.console import pairs, table
from sptcli.session import Session

if TYPE_CHECKING:
    from sptcore.plans.engine import Reproduction, Request

EXAMPLES = (
    "spt reproduce",
    "spt reproduce table2",
    "spt reproduce table3 --scale small --data-root data --dry-run",
    "spt reproduce table1 --scale paper --data-root data --seeds 3 --rows swin-t,spt-t",
    "spt reproduce fig5 --scale smoke --json",
)
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}
LIST = "list"


def command(
    ctx: typer.Context,
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="table1 to table7, fig4, fig5, a plan's file; list: what there is")
    ] = LIST,
    scale: Annotated[
        Literal["smoke", "small", "paper"],
        typer.Option("--scale", help="smoke: seconds, on the sample; small: an hour of a GPU; paper: its settings"),
    ] = "smoke",
    data_root: Annotated[
        Path | None, typer.Option("--data-root", metavar="DIR", help="the folder the data sets lie in")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, metavar="N", help="runs of each row, instead of the scale's own")
    ] = None,
    rows: Annotated[
        options.Names | None,
        typer.Option("--rows", parser=options.parse_names, metavar="ROW,..", help="these rows only"),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="DIR", help="the folder, instead of runs/reproduce/<plan>-<scale>"),
    ] = None,
    device: options.Device = "auto",
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="loading processes of training")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="steps, time, disk and missing data; writes nothing")
    ] = False,
) -> None:
    """Do an experiment of the paper: cut its data sets, train its rows, write one table beside the paper's figures.

    Finished rows are kept and a run that was stopped goes on where it was, also when the folder was moved to another
    machine; the same command does both. Other settings than those a folder was started with are refused; more --seeds
    and other --rows are not. Without --data-root, smoke uses the built-in sample; small and paper look where every
    command looks.

    The table says what differs from the paper, with mean and spread over seeds, and which of its trends are seen.
    """
    from sptcore.plans import load_plan
    from sptcore.plans.engine import Request, reproduce
    from sptcore.plans.schema import PLANS, plan_text

    session = Session.of(ctx)
    if plan == LIST:
        _show_list(session)
        return
    path = PLANS / f"{plan}.toml"
    request = Request(
        load_plan(plan), scale, plan_text(path if path.is_file() else Path(plan)), data_root, seeds, run_dir, device,
        tuple(rows or ()), workers,
    )  # fmt: skip
    if dry_run:
        _show_estimate(session, request, typed=shlex.quote(plan))
        return
    report = reproduce(request, progress=session.progress)
    _show(session, request, report, typed=shlex.quote(plan))
    if report.stopped in SIGNALS:
        raise SystemExit(SIGNALS[report.stopped])


def _show_list(session: Session) -> None:
    from sptcore.plans import SCALES, load_plan, plan_names

    plans = [load_plan(name) for name in plan_names()]
    document = [
        {"plan": plan.name, "title": plan.title, "rows": {scale: len(plan.rows_at(scale)) for scale in SCALES}}
        for plan in plans
    ]
    lines = [[plan.name, plan.title, *(len(plan.rows_at(scale)) for scale in SCALES)] for plan in plans]
    session.show({"plans": document}, table(["plan", "", *(f"rows, {scale}" for scale in SCALES)], lines))
    session.finish(next="spt reproduce table2")


def _show_estimate(session: Session, request: Request, *, typed: str) -> None:
    from sptcore.plans.estimate import estimate

    found = estimate(request, progress=session.progress)
    lines = [
        [
            one.row, one.model, one.data, f"{one.finished}/{one.seeds}", _images(one.images, at_most=one.at_most),
            one.gmacs, one.params_m, one.steps, _duration(one.seconds), f"{one.disk_mb / 1024:.2f} GB",
        ]
        for one in found.rows
    ]  # fmt: skip
    header = ["row", "model", "data", "done", "images", "GMACs", "params M", "steps left", "time", "disk"]
    document = {
        "dry_run": True, "folder": request.folder, "rows": found.rows, "seconds": found.seconds,
        "disk_mb": found.disk_mb, "basis": found.basis, "missing": found.missing,
    }  # fmt: skip
    about = {"in all": f"{_duration(found.seconds)}, {found.disk_mb / 1024:.2f} GB", "folder": request.folder}
    views: list[Any] = [table(header, lines, title=_title(request)), pairs(about), found.basis]
    views += [f"missing: {title}: {cure}" for title, cure in found.missing.items()]
    session.show(document, *views)
    if not found.missing:
        session.finish(next=_call(request, typed))


def _call(request: Request, typed: str) -> str:
    """The command that does what was asked for, whole."""
    scale = "" if request.scale == "smoke" else f" --scale {request.scale}"
    root = "" if request.data_root is None else f" --data-root {shlex.quote(str(request.data_root))}"
    seeds = "" if request.seeds is None else f" --seeds {request.seeds}"
    rows = f" --rows {','.join(request.rows)}" if request.rows else ""
    home = "" if request.home is None else f" --run-dir {shlex.quote(str(request.home))}"
    return f"spt reproduce {typed}{scale}{root}{seeds}{rows}{home}"


def _images(count: int, *, at_most: bool) -> str:
    return f"at most {count}" if at_most else str(count)


def _duration(seconds: float) -> str:
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{int(seconds < 10 * unit)}f} {name}"
    return f"{seconds / 86_400:,.0f} days"


def _title(request: Request) -> str:
    return f"{request.plan.title}, scale {request.scale}"


def _show(session: Session, request: Request, report: Reproduction, *, typed: str) -> None:
    from sptcore.plans.writing import as_document, table_rows

    header, lines = table_rows(report.table)
    verdicts = [[one.text, one.verdict, one.why] for one in report.table.verdicts]
    views: list[Any] = [table(header, lines, title=_title(request))]
    views += [table(["trend of the paper", "", ""], verdicts)] if verdicts else []
    views += ["What differs from the paper:", *(f"  - {line}" for line in report.table.differs)]
    document = {
        "folder": report.folder, "trained": report.trained, "already_there": report.found, "stopped": report.stopped,
        "table": as_document(report.table),
    }  # fmt: skip
    session.show(document, *views)
    session.finish(artefacts={"folder": report.folder, **report.files}, next=_next(request, report, typed))


def _next(request: Request, report: Reproduction, typed: str) -> str:
    """What a person would type: the same again where something is left, then the next scale."""
    if report.stopped is not None:
        return _call(request, typed)
    root = "" if request.data_root is None else f" --data-root {shlex.quote(str(request.data_root))}"
    if request.scale == "smoke":
        return f"spt reproduce {typed} --scale small{root} --dry-run"
    left = [row.plan.key for row in report.table.rows if len(row.seeds) < len(request.chosen_seeds)]
    return _call(request, typed) if left else "spt reproduce list"
