"""`spt train`: train a detector or classifier whose backbone selects tokens, or a plain one to compare with."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sptcli import options
from sptcli.console import pairs, table
from sptcli.processes import Spread, joined_here, launched
from sptcli.session import Session
from sptcli.settings import Extra
from sptcore.errors import SptError, UsageError

if TYPE_CHECKING:
    from sptcore.runs import Run
    from sptcore.training.config import TrainConfig
    from sptcore.training.distributed import Group
    from sptcore.training.loop import FitReport

EXAMPLES = (
    "spt train --model spt-nano",
    "spt train --model spt-t --data coco-s20 --epochs 12",
    "spt train --model spt-s --data coco --dry-run",
    "spt train --model spt-t --data voc --task multilabel",
    "spt train --resume last",
)
PRESETS = "detect-paper, multilabel-voc, classify-light, classify-swin, sample ...: follows the data and the task"
RECIPE, SELECTION, RUNNING = "Recipe", "Selection", "Running"
SIGNALS = {"SIGTERM": 143, "SIGINT": 130}


def parse_switch(text: str | float) -> float:
    """A number, or `off` for 0."""
    try:
        return 0.0 if str(text).lower() == "off" else float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor off") from None


def parse_count(text: str | int) -> int:
    """A number, or `auto` as -1."""
    if str(text).lower() == "auto":
        return -1
    if not str(text).isdecimal():
        raise typer.BadParameter(f"{text!r} is neither a number nor auto")
    return int(text)


def parse_seconds(text: str | float) -> float:
    """`3h30m`, `90m`, `45s` in seconds."""
    from sptcore.training.stop import parse_duration

    try:
        return text if isinstance(text, (int, float)) else parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def extra_settings() -> dict[str, Extra]:
    """The settings of the recipe that have no flag of their own."""
    from sptcore.training.config import TrainConfig

    named = set(command.__annotations__)
    fields = {name: field for name, field in TrainConfig.model_fields.items() if name not in named}
    return {name.replace("_", "-"): Extra(field.default, field.description or "") for name, field in fields.items()}


def preset(values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The recipe for the data: the sample's own, or the paper's; none for a run that is resumed."""
    from sptcore.training.config import load_preset, preset_for
    from sptcore.training.task_choice import task_for

    if values["resume"] not in (None, "auto"):
        return None
    name = values["preset"]
    if name is None:
        where = {key: values[key] for key in ("root", "ann", "format")}
        name = preset_for(values["data"], values["task"] or task_for(values["data"], **where))
    loaded = load_preset(name)
    return name, loaded | {"res": options.parse_size(loaded["res"])}


def _option(*flags: str, text: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(*flags, help=text, rich_help_panel=panel, show_default=False, **more)


def command(
    ctx: typer.Context,
    model: Annotated[str | None, _option("--model", text="spt-t, swin-t ...; see: spt models")] = None,
    data: options.DataOption = "sample",
    preset: Annotated[str | None, _option("--preset", text=PRESETS)] = None,
    task: Annotated[str | None, _option("--task", text="detect, multilabel or classify; follows the data")] = None,
    heads: Annotated[str | None, _option("--heads", text="auto, standard or small")] = None,
    labels: Annotated[
        str | None, _option("--labels", text="auto (found or built), a file, boxes, masks or image", metavar="FILE")
    ] = None,
    val_data: Annotated[str | None, _option("--val-data", text="validate on another data set", metavar="DATA")] = None,
    root: options.Root = None,
    ann: options.Ann = None,
    format: options.Format = "auto",
    split: options.Split = "train",
    val_split: Annotated[str, typer.Option("--val-split", help="split of the validation")] = "val",
    res: options.Res = None,
    epochs: Annotated[int | None, _option("--epochs", text="passes over the images", panel=RECIPE)] = None,
    max_steps: Annotated[int | None, _option("--max-steps", text="stop after so many steps", panel=RECIPE)] = None,
    batch: Annotated[
        int | None,
        _option("--batch", text="images a forward pass, or auto", parser=parse_count, metavar="N", panel=RECIPE),
    ] = None,
    accum: Annotated[int | None, _option("--accum", text="forward passes a step", panel=RECIPE)] = None,
    lr: Annotated[float | None, _option("--lr", text="learning rate of AdamW", panel=RECIPE)] = None,
    scale_lr: Annotated[
        bool | None, _option("--scale-lr/--no-scale-lr", text="scale lr to the images a step", panel=RECIPE)
    ] = None,
    weight_decay: Annotated[float | None, _option("--wd", "--weight-decay", text="weight decay", panel=RECIPE)] = None,
    warmup: Annotated[int | None, _option("--warmup", text="steps of linear warm-up", panel=RECIPE)] = None,
    schedule: Annotated[str | None, _option("--schedule", text="step or cosine", panel=RECIPE)] = None,
    clip: Annotated[
        float | None, _option("--clip", text="largest gradient norm", parser=parse_switch, panel=RECIPE)
    ] = None,
    ema: Annotated[
        float | None, _option("--ema", text="decay of averaged weights", parser=parse_switch, panel=RECIPE)
    ] = None,
    amp: Annotated[str | None, _option("--amp", text="bf16, fp16, off, or auto: bf16 on CUDA", panel=RECIPE)] = None,
    init: Annotated[str | None, _option("--init", text="none, imagenet, or a weights file", panel=RECIPE)] = None,
    drop_path: Annotated[float | None, _option("--drop-path", text="stochastic depth", panel=RECIPE)] = None,
    seed: Annotated[int | None, _option("--seed", text="seed of every random draw", panel=RECIPE)] = None,
    select_loss_weight: Annotated[
        float | None, _option("--select-loss-weight", "--alpha", text="weight of the selection loss", panel=SELECTION)
    ] = None,
    select_threshold: Annotated[
        float | None, _option("--select-threshold", text="select above this probability", panel=SELECTION)
    ] = None,
    gate_lr_mult: Annotated[
        float | None, _option("--gate-lr-mult", text="learning rate factor of the gates", panel=SELECTION)
    ] = None,
    num_spa_blocks: Annotated[
        int | None, _option("--num-spa-blocks", text="blocks that select, from the last", panel=SELECTION)
    ] = None,
    packing: Annotated[str | None, _option("--packing", text="stream or aligned", panel=SELECTION)] = None,
    bypass: Annotated[str | None, _option("--bypass", text="identity or proj", panel=SELECTION)] = None,
    ffn: Annotated[str | None, _option("--ffn", text="all or selected", panel=SELECTION)] = None,
    rpb: Annotated[str | None, _option("--rpb", text="spatial, slot or none", panel=SELECTION)] = None,
    log: Annotated[
        str | None, _option("--log", text="csv, or csv,tensorboard", metavar="KIND,..", panel=RUNNING)
    ] = None,
    device: options.Device = "auto",
    devices: Annotated[
        str | None,
        _option("--devices", text="processes of a machine, their GPUs (0,1), or auto: all", metavar="N", panel=RUNNING),
    ] = None,
    nodes: Annotated[
        int | None, _option("--nodes", text="machines, on each of which this command runs", panel=RUNNING)
    ] = None,
    rdzv: Annotated[
        str | None, _option("--rdzv", text="where machines meet", metavar="HOST:PORT", panel=RUNNING)
    ] = None,
    workers: Annotated[
        int | None, _option("--workers", text="loading processes, or auto", parser=parse_count, panel=RUNNING)
    ] = None,
    compile: Annotated[
        bool | None, _option("--compile/--no-compile", text="fuse dense parts by torch.compile", panel=RUNNING)
    ] = None,
    deterministic: Annotated[
        bool | None, _option("--deterministic", text="only deterministic algorithms", panel=RUNNING)
    ] = None,
    save_every: Annotated[str | None, _option("--save-every", text="1ep, 500it", panel=RUNNING)] = None,
    keep: Annotated[int | None, _option("--keep", text="checkpoints that stay", panel=RUNNING)] = None,
    resume: Annotated[
        str | None,
        _option("--resume", text="a run, its checkpoints/best.pt, last; auto: --run-dir if begun", panel=RUNNING),
    ] = None,
    run_dir: options.RunDir = None,
    name: Annotated[
        str | None, _option("--name", text="name of the run's folder after its time", panel=RUNNING)
    ] = None,
    time_limit: Annotated[
        float | None,
        _option("--time-limit", text="stop and save after 3h30m", parser=parse_seconds, metavar="TIME", panel=RUNNING),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="two steps: time and memory it would take")] = False,
    strict: options.Strict = False,
    follow_symlinks: options.FollowSymlinks = False,
    allow_truncated: options.AllowTruncated = False,
    size: options.AnnotatedSize = None,
) -> int:
    """Train a detector (Mask R-CNN, or Faster R-CNN on boxes alone) or a classifier of images (--task).

    Without --data the built-in sample and its own recipe (spt-nano, minutes on a CPU); a real data set gets the paper's
    recipe for its task: classify on Tiny ImageNet and IN-S, else detect. Every class of the data is learned under its
    own id. Ctrl-C, SIGTERM and SIGUSR1 save and stop; --resume goes on as if nothing had happened.

    Processes are started by --devices and --nodes, by torchrun or by srun. A run goes on with another number of them
    where it divides devices x nodes x accum: as many images a step, by accumulating, and the same results. So the
    workers of an elastic launch may come and go: torchrun --nnodes 1:4 --nproc-per-node 1 -m sptcli train --nodes 4
    --run-dir DIR --resume auto, with DIR on a disk that all machines share.

    The run folder holds settings, metrics, checkpoints and weights; `spt train --config RUN/config.toml` runs it again.
    """
    from sptcore.training.loop import make_trainer
    from sptcore.training.resuming import check_resumable

    session, began = Session.of(ctx), time.monotonic()
    run = _resumed(resume, run_dir)
    config = _config(session, run)
    if dry_run:
        _show_trial(session, config)
        return 0
    if run is not None:
        check_resumable(config, run)
    spread = Spread(config.device, config.devices, config.nodes, config.gpus, rdzv)
    if (code := launched(session, spread)) is not None:
        return code
    with joined_here(spread) as (group, own_device):
        regroup = run is not None or group.world < config.world  # fewer came to an elastic launch than it can take
        trainer = make_trainer(config, group=group, device=own_device, progress=session.progress, regroup=regroup)
        # not before: a run that is refused leaves no folder
        home = run or _shared_home(group, lambda: _fresh(config, run_dir, name))
        session.note(f"run: {home.home}")
        left = None if time_limit is None else max(0.0, time_limit - (time.monotonic() - began))
        report = trainer.fit(home, resume=_checkpoint(resume) or run is not None, time_limit=left)
    if session.is_leader:
        _show(session, report)
    if report.stopped in SIGNALS:
        raise SystemExit(SIGNALS[report.stopped])
    return 0


def _shared_home(group: Group, make: Callable[[], Run]) -> Run:
    """The folder that the leader makes, on every process; when it cannot, it says why and the others go quietly."""
    from sptcore.runs import Run

    made, failure = None, None
    if group.is_leader:
        try:
            made = make()
        except SptError as error:
            failure = error
    folder, code = group.first((None if made is None else str(made.home), failure and failure.exit_code))
    if failure is not None:
        raise failure
    if folder is None:
        raise typer.Exit(code or 0)
    return made or Run(Path(folder))


def _resumed(resume: str | None, run_dir: Path | None) -> Run | None:
    """The run to go on with, None for a fresh one."""
    from sptcore.runs import forget_unbegun, open_run

    if resume is None:
        return None
    if (checkpoint := _checkpoint(resume)) is not None:
        return open_run(checkpoint.parent.parent)
    if resume != "auto":
        return open_run(resume)
    if run_dir is None:
        raise UsageError("--resume auto needs the folder of the run", hint="--run-dir DIR, or --resume last")
    if (run_dir / "config.toml").is_file():
        return open_run(run_dir)
    forget_unbegun(run_dir)  # a job that was put back into the queue before its first run had begun
    return None


def _checkpoint(resume: str | None) -> Path | None:
    """The checkpoint that is gone back to, None for a run's last. Raises UsageError for one that lies in no run."""
    path = Path(resume or "").expanduser().absolute()
    if path.suffix != ".pt" or not path.is_file():
        return None
    if path.parent.name != "checkpoints" or not (path.parent.parent / "config.toml").is_file():
        raise UsageError("not a checkpoint in its run folder", where=str(path), hint="--resume RUN/checkpoints/best.pt")
    return path


def _config(session: Session, run: Run | None) -> TrainConfig:
    """The settings of this run: a resumed one's own, with what was set now on top."""
    from sptcore.training.config import TrainConfig, make_config, read_config
    from sptcore.training.resuming import shared_anew

    values = {**session.values, **session.extra}
    values = {name: value for name, value in values.items() if name in TrainConfig.model_fields and value is not None}
    values = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    if values.get("workers") == -1:
        values["workers"] = None
    if values.get("batch") == -1:  # a resumed run keeps the number that was found
        values["batch"] = 0 if run is None else read_config(run.home / "config.toml").batch
    named = {key for key in values if session.explicit(key)}
    if "devices" in values:
        placed = _parse_devices(values["devices"], values.get("device", "auto"))
        values |= placed
        named |= placed.keys() if "devices" in named else set()
    if session.explicit("warmup") and not session.explicit("warmup_epochs"):
        values["warmup_epochs"] = 0.0  # the preset's gives way to the steps a person named
    if run is None:
        return make_config(values)
    own = read_config(run.home / "config.toml")
    if "preset" in named and values.get("preset") != own.preset:
        was = f"the preset {own.preset}" if own.preset else "settings of no preset"
        raise UsageError(f"a resumed run keeps its settings: it began with {was}", where=str(run.home))
    asked = make_config(own.model_dump(exclude_none=True) | {key: values[key] for key in named})
    return asked if "accum" in named or asked.world == own.world else shared_anew(own, asked)


def _parse_devices(text: str, device: str) -> dict[str, Any]:
    """The settings that `--devices` stands for: a number of processes, the GPUs of each, or all GPUs."""
    import torch

    from sptcore.runs.device import pick_device

    if text == "auto":
        count = max(1, torch.cuda.device_count()) if pick_device(device).type == "cuda" else 1
        return {"devices": count, "gpus": None}
    parts = str(text).split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--devices {text}: neither a number, nor numbers of GPUs, nor auto", hint="--devices 0,1")
    gpus = tuple(int(part) for part in parts)
    return {"devices": len(gpus), "gpus": gpus} if len(gpus) > 1 else {"devices": int(parts[0]), "gpus": None}


def _fresh(config: TrainConfig, run_dir: Path | None, name: str | None) -> Run:
    from sptcore.runs import new_run

    label = name or f"{config.model}-{Path(config.data).name}"
    return new_run("train", label, folder=run_dir, argv=["spt", *sys.argv[1:]])


def _show_trial(session: Session, config: TrainConfig) -> None:
    from sptcore.training.trial import try_run

    trial = try_run(config, session.progress)
    minutes = trial.seconds / 60
    view = {
        "model": config.model,
        "parameters": f"{trial.parameters / 1e6:.2f} M",
        "device": trial.device,
        "images, classes": f"{trial.images}, {trial.classes}",
        "steps": trial.steps,
        "seconds a step": trial.seconds_per_step,
        "all steps": f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h",
        "peak memory": f"{trial.memory_mb:.0f} MB",
    }
    session.show({"dry_run": True, "trial": trial, "config": config.model_dump()}, pairs(view))


def _show(session: Session, report: FitReport) -> None:
    run = report.run
    document: dict[str, object] = {
        "run": run.home, "step": report.step, "total_steps": report.total_steps, "skipped": report.skipped,
        "stopped": report.stopped, "seconds": round(report.seconds, 1),
    }  # fmt: skip
    views = []
    if report.evaluation is not None:
        document["metrics"] = figures = report.evaluation.figures()
        wanted = report.figures
        ratios = [name for name in figures if name.startswith(("select_ratio", "label_ratio", "recall"))]
        rows = [[key, figures[key]] for key in (*wanted, *ratios) if key in figures]
        views = [table(["validation", "value"], rows)]
    session.show(document, *views)
    if report.stopped:
        session.note(f"stopped by {report.stopped} at step {report.step} of {report.total_steps}; everything is saved")
    files = {"run": run.home, "weights": run.weights, "metrics": run.home / "metrics.csv"}
    judged = f"spt evaluate {shlex.quote(str(run.home))}"
    session.finish(artefacts=files, next=report.resume_command if report.stopped else judged)
