"""Kernels without a GPU: tests under Triton's interpreter in a process of their own, and what ptxas says of a build."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SHARED_LIMIT = 227 * 1024  # bytes of shared memory that one program may have on sm_90


def run_interpreted(cases: Path, *, only: str = "", timeout: float = 900.0) -> None:
    """Run the tests of `cases` that match `only` with TRITON_INTERPRET=1 in a child process; fail with its output.

    The variable must be set before a kernel is decorated, and this process has long imported them: hence the child.
    """
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(cases), "-k", only]
    child = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    if child.returncode:  # also when nothing matched `only`
        pytest.fail(f"{' '.join(command)}\n{child.stdout[-6000:]}{child.stderr[-2000:]}", pytrace=False)


def compiled_kernels(operation: str):
    """The module `sptcore.ops.<operation>.kernel` of this process; skips where its kernels cannot be compiled."""
    pytest.importorskip("triton", reason="Triton is not installed")
    module = importlib.import_module(f"sptcore.ops.{operation}.kernel")
    if module.INTERPRETED:
        pytest.skip("this whole test run has TRITON_INTERPRET=1")
    return module


@dataclass(frozen=True)
class Build:
    """What one kernel needs on sm_90: bytes spilled by a thread, shared memory of a program, matrix instructions."""

    spilled: int
    shared: int
    tensor_core: bool


def build_for_sm90(kernel, constants: dict, types: dict[str, str], *, warps: int, stages: int = 3) -> Build:
    """Compile a kernel for sm_90 without a GPU; skips where this Triton cannot, or brings no ptxas.

    `types`: Triton's type of each argument by name; pointers and strides count as multiples of 16.
    """
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    source, target = _source(triton, kernel, constants, types)
    built = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    return Build(
        spilled=_spilled(triton, built.asm["ptx"]),
        shared=built.metadata.shared,
        tensor_core=bool(re.search(r"wgmma\.mma|mma\.sync", built.asm["ptx"])),
    )


def _source(triton, kernel, constants: dict, types: dict[str, str]):
    try:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
        aligned = [i for i, name in enumerate(kernel.arg_names) if name.endswith(("_ptr", "_row", "_head"))]
        attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
        return ASTSource(kernel, signature, constants, attributes), GPUTarget("cuda", 90, 32)
    except (ImportError, TypeError) as fault:
        pytest.skip(f"the compiler of triton {triton.__version__} is called otherwise: {fault}")


def _spilled(triton, ptx: str) -> int:
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not ptxas.exists():
        pytest.skip(f"triton {triton.__version__} brings no ptxas")
    command = [str(ptxas), "-v", "--gpu-name", "sm_90a", "-o", os.devnull, "-"]
    said = subprocess.run(command, input=ptx, capture_output=True, text=True, check=False, timeout=300)
    spills = re.search(r"(\d+) bytes spill stores", said.stderr)
    assert spills is not None, said.stderr
    return int(spills[1])
