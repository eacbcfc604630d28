"""`spt export`: a model as a file that other programs run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sptcli import options
from sptcli.console import table
from sptcli.session import Session

if TYPE_CHECKING:
    from sptcore.export.job import ExportReport

EXAMPLES = (
    "spt export",
    "spt export last --format pt2 --res 1280x800",
    "spt export best.safetensors --out detector.onnx --check 1e-4",
)


def command(
    ctx: typer.Context,
    weights: Annotated[str, typer.Argument(metavar="RUN|WEIGHTS", help="auto, last, a run or weights")] = "auto",
    format: Annotated[
        Literal["auto", "onnx", "pt2", "safetensors"],
        typer.Option("--format", help="kind of file; auto: by the ending of --out, else onnx"),
    ] = "auto",
    res: options.Res = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="images at once; a detector takes one")] = 1,
    scope: Annotated[
        Literal["model", "backbone"], typer.Option("--scope", help="the whole model, or its backbone's maps")
    ] = "model",
    check: Annotated[
        float, typer.Option("--check", metavar="T", help="largest difference from the model that is let pass")
    ] = 1e-3,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="the file, instead of <name>-<WxH> here")
    ] = None,
) -> None:
    """Export a model: ONNX (any runtime, no operator of ours), pt2 (torch.export), or its weights as safetensors.

    A graph takes frames of the size --res, uint8 RGB, and normalises them itself; a classifier gives logits, a detector
    boxes, scores, classes and masks. In each frame only the selected tokens are computed on. The file is opened anew
    and compared with the model on images that select differently; one that differs by more than --check is not
    published (exit 5). ONNX needs pip install 'spt[export]'; a pt2 file is read after import sptcore.export.operators.
    Without a name: the last run, else the bundled demo weights.
    """
    from sptcore.errors import IntegrityError
    from sptcore.export.job import ExportSettings, export

    session = Session.of(ctx)
    report = export(ExportSettings(weights, format, res, batch, scope, check, out), progress=session.progress)
    document = {
        "weights": report.weights,
        "demo": report.demo,
        "format": report.format,
        "published": report.published,
        "bytes": report.size,
        "largest_difference": report.largest,
        "comparisons": report.comparisons,
        "description": report.description,
    }
    session.show(document, _view(report), _compared(report))
    if not report.published:
        raise IntegrityError(
            f"the file differs from the model by {report.largest:g}, more than {check:g}; it is not published",
            where=f"--check {check:g}",
            hint="a score beside the threshold may select another token: see which input differs, or raise --check",
        )
    session.note(_loading(report))
    again = f"spt predict sample --weights {shlex.quote(str(report.path))}" if report.format == "safetensors" else None
    session.finish(artefacts={report.format: report.path}, next=again)


def _view(report: ExportReport) -> object:
    """What goes in and out."""
    description = report.description
    rows = [["in", description["input"]["name"], description["input"]["holds"], None]]
    rows += [["out", name, words, f"{report.worst(name):.2g}"] for name, words in description["outputs"].items()]
    return table(["", "tensor", "holds", "largest difference"], rows)


def _compared(report: ExportReport) -> object:
    rows = [[one.images, one.select_ratio, f"{one.largest:.2g}"] for one in report.comparisons]
    return table(["compared on", "selected", "largest difference"], rows)


def _loading(report: ExportReport) -> str:
    path = str(report.path)
    return {
        "onnx": f"load it with onnxruntime.InferenceSession({path!r}); what is in it: metadata 'spt'",
        "pt2": f"load it with import sptcore.export.operators; torch.export.load({path!r}).module()",
        "safetensors": "every command that takes --weights reads it",
    }[report.format]
