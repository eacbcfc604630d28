"""The three kinds of file: how each is written, and how it is opened again as a program that never saw the model."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

import sptcore.export.operators  # noqa: F401  (a pt2 file is read back)
from sptcore.errors import EnvironmentFault, UsageError
from sptcore.export.graphs import Graph

if TYPE_CHECKING:
    from onnxscript import ir

INPUT = "images"
METADATA = "spt"
EXTRA_FILE = "spt.json"
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}

Runner = Callable[[Tensor], dict[str, Tensor]]
"""Images (B, 3, H, W) uint8 -> the outputs by name."""


def require_onnx() -> None:
    """Raise EnvironmentFault, with the command that mends it, where ONNX files cannot be written or run."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        hint = "pip install 'spt[export]', or --format pt2"
        raise EnvironmentFault(f"--format onnx: ONNX is not installed ({error})", hint=hint) from error


def capture(graph: Graph) -> ExportedProgram:
    """The graph of any selection. Raises UsageError where the model asks for sizes that follow the image."""
    example = torch.zeros(graph.shape, dtype=torch.uint8)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(graph.module, (example,), strict=False)
    except GuardOnDataDependentSymNode as error:
        message = "with these settings the model makes sizes that follow the image, which no exported graph can hold"
        raise UsageError(f"{message}: {str(error).splitlines()[0]}", hint="--format safetensors takes it") from error
    _forget_folders(program)
    return program


def _forget_folders(program: ExportedProgram) -> None:
    """Drop the stack traces, which name this machine's folders, branches of the program's too."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)


def write_pt2(graph: Graph, path: Path, description: dict[str, Any]) -> None:
    """A file of torch.export, the description inside as `spt.json`."""
    program, stream = capture(graph), io.BytesIO()
    with _quiet():
        torch.export.save(program, stream, extra_files={EXTRA_FILE: json.dumps(description)})
    path.write_bytes(stream.getbuffer())  # here, as torch would turn a full disk into something else


def open_pt2(path: Path, outputs: list[str]) -> Runner:
    """The program in a pt2 file."""
    with _quiet():
        module = torch.export.load(path).module()

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(outputs, module(images), strict=True))

    return run


def write_onnx(graph: Graph, path: Path, description: dict[str, Any]) -> None:
    """An ONNX file of standard operators alone, the description as the metadata `spt`.

    Raises UsageError for an operator without an ONNX form.
    """
    from onnxscript import ir

    from sptcore.export.onnx_forms import FORMS

    program = capture(graph)
    _check_forms(program, FORMS)
    with torch.no_grad(), _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=list(graph.outputs),
            custom_translation_table=FORMS,
            verbose=False,
        )
    assert written is not None
    for output in written.model.graph.outputs:
        if output.shape is not None:
            output.shape = ir.Shape(["found" if isinstance(side, ir.SymbolicDim) else side for side in output.shape])
    _forget_making(written.model)
    written.model.metadata_props[METADATA] = json.dumps(description)
    written.save(path, external_data=False)


def _forget_making(model: ir.Model) -> None:
    """Drop what the exporter notes at every node and value of where it came from, a tenth of a small model's file."""
    graph = model.graph
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _check_forms(program: ExportedProgram, forms: dict[Callable, Callable]) -> None:
    for node in program.graph.nodes:
        if str(node.target).startswith("sptcore.") and node.target not in forms:
            raise UsageError(f"{node.target} has no form in ONNX", hint="--format pt2 takes it")


def open_onnx(path: Path, outputs: list[str]) -> Runner:
    """The program in an ONNX file, on the CPU. Raises OSError or onnxruntime's own errors for a broken file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are about empty selections
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> dict[str, Tensor]:
        values = session.run(outputs, {INPUT: images.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(outputs, values, strict=True)}

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporters and the packages beneath them say of their own future."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
