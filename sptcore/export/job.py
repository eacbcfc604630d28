"""Job export: a model as a file that other programs run, compared with the model before it is published."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sptcore
from sptcore.errors import UsageError, did_you_mean
from sptcore.export.check import Comparison, check_inputs, differences, run_eager
from sptcore.export.formats import (
    INPUT,
    SUFFIXES,
    Runner,
    open_onnx,
    open_pt2,
    require_onnx,
    write_onnx,
    write_pt2,
)
from sptcore.export.graphs import Graph, build_graph, check_exportable
from sptcore.files import as_fault, atomic_path
from sptcore.progress import SILENT, Progress, track
from sptcore.runs import Run, save_weights
from sptcore.runs.demo import is_demo, open_weights
from sptcore.runs.models import LoadedModel, load_model

SCHEMA = "spt.export/1"


@dataclass(frozen=True)
class ExportSettings:
    """What is exported and how. `format`: onnx, pt2, safetensors, or auto (by the ending of `out`, else onnx).

    `resolution` (width, height) of the frames, None: what the model was trained for. `scope`: model, or backbone (its
    maps). `limit`: the largest difference from the model that is let pass. `out` None: `<name>-<W>x<H>`, in the current
    folder.
    """

    weights: str = "auto"
    format: str = "auto"
    resolution: tuple[int, int] | None = None
    batch: int = 1
    scope: str = "model"
    limit: float = 1e-3
    out: Path | None = None


@dataclass(frozen=True)
class ExportReport:
    """The file, whether it was published (not when it differs too much), what is in it, and every comparison."""

    path: Path
    weights: str
    demo: bool
    format: str
    published: bool
    size: int
    description: dict[str, Any]
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def largest(self) -> float:
        """The largest difference from the model over all outputs and inputs."""
        return max(one.largest for one in self.comparisons)

    def worst(self, output: str) -> float:
        """The largest difference of one output."""
        return max(one.differences[output] for one in self.comparisons)


class _TooFar(Exception):
    """Leaves `atomic_path` so that nothing is published."""


def export(settings: ExportSettings, *, progress: Progress = SILENT) -> ExportReport:
    """Write the file, open it anew, compare it with the model on images that select differently, and publish it.

    Nothing is published when it differs by more than the limit: see `ExportReport.published`. Raises UsageError for
    settings that no file of the format can hold, DataError for weights that are not there, EnvironmentFault without
    the `export` extra.
    """
    format = pick_format(settings)
    if format == "onnx":
        require_onnx()
    run = open_weights(settings.weights)
    loaded = load_model(run)
    resolution = settings.resolution or loaded.spec.resolution
    check_exportable(loaded, resolution, settings.batch, settings.scope, captured=format != "safetensors")
    graph = build_graph(loaded, resolution=resolution, batch=settings.batch, scope=settings.scope)
    path = settings.out or Path(f"{run.name}-{'x'.join(map(str, resolution))}{SUFFIXES[format]}")
    _check_target(path, run.weights)
    description = _describe(loaded, settings, format, graph)
    comparisons: list[Comparison] = []
    size, published = 0, True
    try:
        with atomic_path(path) as temp:
            progress.note(f"writing {path.name}, then comparing it with the model")
            runner = _WRITERS[format](loaded, graph, temp, description)
            size = temp.stat().st_size
            comparisons.extend(_compare(loaded, runner, graph, settings.scope, progress))
            if not all(one.largest <= settings.limit for one in comparisons):
                raise _TooFar
    except _TooFar:
        published = False
    return ExportReport(path, run.name, is_demo(run), format, published, size, description, comparisons)


def _check_target(path: Path, weights: Path) -> None:
    """Raise before the work what would keep the file from its place after it."""
    if path.is_dir():
        raise UsageError("a folder, not a file", where=f"--out {path}")
    if path.exists() and path.samefile(weights):
        raise UsageError("the file would replace the weights it is made from", where=str(path), hint="--out FILE")
    if not path.parent.is_dir():
        raise as_fault(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), path)
    if not os.access(path.parent, os.W_OK):
        raise as_fault(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), path)


def pick_format(settings: ExportSettings) -> str:
    """The format asked for, or that of the file's ending, else onnx. Raises UsageError where the two differ."""
    if not settings.limit >= 0:  # nor where it is no number
        raise UsageError(f"a difference is at least 0, not {settings.limit:g}", where="--check")
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    suffix = None if settings.out is None else settings.out.suffix.lower()
    if settings.format == "auto" and suffix is None:
        return "onnx"
    if settings.format == "auto" and suffix not in by_suffix:
        message = f"the ending {suffix!r} tells no format"
        raise UsageError(message, where=f"--out {settings.out}", hint=f"one of {', '.join(by_suffix)}")
    format = by_suffix[suffix or ""] if settings.format == "auto" else settings.format
    if format not in SUFFIXES:
        raise UsageError(f"no format {format!r}", hint=did_you_mean(format, SUFFIXES) or ", ".join(SUFFIXES))
    if suffix not in (None, SUFFIXES[format]):
        raise UsageError(f"a file of format {format} ends in {SUFFIXES[format]}", where=f"--out {settings.out}")
    return format


def _describe(loaded: LoadedModel, settings: ExportSettings, format: str, graph: Graph) -> dict[str, Any]:
    """What is told inside the file of how to use it, as plain JSON values."""
    return {
        "schema": SCHEMA,
        "tool_version": sptcore.__version__,
        "format": format,
        "scope": settings.scope,
        "input": {"name": INPUT, "shape": list(graph.shape), "holds": graph.input_words},
        "outputs": graph.outputs,
        "categories": [{"id": number, "name": name} for number, name in loaded.spec.categories],
        "model": loaded.spec.to_dict(),
        "weights_sha256": loaded.info.sha256,
    }


def _compare(loaded: LoadedModel, runner: Runner, graph: Graph, scope: str, progress: Progress) -> Iterator[Comparison]:
    inputs = list(check_inputs(graph.shape))
    for name, images in track(inputs, progress, "comparing", len(inputs)):
        wanted, ratio = run_eager(loaded, images, scope)
        yield Comparison(name, ratio, differences(wanted, runner(images)))


def _to_onnx(loaded: LoadedModel, graph: Graph, path: Path, description: dict[str, Any]) -> Runner:
    write_onnx(graph, path, description)
    return open_onnx(path, list(graph.outputs))


def _to_pt2(loaded: LoadedModel, graph: Graph, path: Path, description: dict[str, Any]) -> Runner:
    write_pt2(graph, path, description)
    return open_pt2(path, list(graph.outputs))


def _to_safetensors(loaded: LoadedModel, graph: Graph, path: Path, description: dict[str, Any]) -> Runner:
    """Weights as a run saves them; what other commands fit images into is the frame."""
    _, _, height, width = graph.shape
    spec = replace(loaded.spec, resolution=(max(width, height), min(width, height)))
    save_weights(path, loaded.model.state_dict(), spec.to_dict(), notes=dict(loaded.info.notes))
    again = load_model(Run(None, path))
    return lambda images: run_eager(again, images, "model")[0]


_WRITERS: dict[str, Callable[[LoadedModel, Graph, Path, dict[str, Any]], Runner]] = {
    "onnx": _to_onnx,
    "pt2": _to_pt2,
    "safetensors": _to_safetensors,
}
