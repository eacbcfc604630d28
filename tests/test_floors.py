"""The import law: who may import whom, what stays free of torch, and how long a file and a function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from sptcli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sptcore", "sptcli")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FOUNDATION = {"errors", "progress", "files", "cache"}
TASK_DATA = ("sptcore.data.records", "sptcore.data.rasterize")  # what an annotation is, and its pixels
MODEL_SIDE = {"ops", "models", "tasks"}
READING = FOUNDATION | {"data", "labels"}

# Room -> the rooms of sptcore it may import; a file in sptcore itself that is not listed is a job and may import all.
FLOORS: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "files": {"errors"},
    "cache": {"errors", "files"},
    "data": FOUNDATION,
    "labels": FOUNDATION | {"data"},
    "ops": {"errors"},
    "models": {"errors", "ops"},
    "tasks": {"errors", "progress", "ops", "models", "data"},
    "runs": FOUNDATION | MODEL_SIDE,
    "export": READING | MODEL_SIDE | {"runs"},
    "profiling": READING | MODEL_SIDE | {"runs"},
    "training": READING | MODEL_SIDE | {"runs"},
    "viz": READING | MODEL_SIDE | {"runs"},
    "integrations": {"errors"} | MODEL_SIDE | {"training"},
}
FILELESS = {"pathlib", "json", "h5py", "tomllib", "tomlkit", "shutil", "tempfile", "pickle"}


def module_name(path: Path) -> str:
    """The dotted name of a file of the tree."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every dotted module a file imports, at its top, in functions and under TYPE_CHECKING, relative ones resolved."""
    here = module_name(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{source}.{alias.name}", node


def room(dotted: str) -> str | None:
    """The room of a name in sptcore (`sptcore.data.coco` is `data`); None for anything else and for sptcore itself."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "sptcore" and len(parts) > 1 and not parts[1].startswith("__") else None


def breaches(path: Path) -> list[str]:
    own = room(module_name(path))
    allowed = FLOORS.get(own or "")
    found = []
    for dotted, node in imports(path):
        where = f"{path.relative_to(ROOT)}:{node.lineno} imports {dotted}"
        other = room(dotted)
        if allowed is not None and other is not None and other not in allowed | {own}:
            found.append(where)
        if own == "tasks" and other == "data" and not dotted.startswith(TASK_DATA):
            found.append(f"{where}: tasks know data.records and data.rasterize only")
    return found


def test_nobody_imports_a_floor_above() -> None:
    assert [breach for path in MODULES for breach in breaches(path)] == []


def test_the_law_sees_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the check above finds what it looks for."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name, text in {
        "sptcore/ops/a.py": "def f():\n    from sptcore.data import coco\n",
        "sptcore/data/b.py": "import sptcore.models.block\n",
        "sptcore/tasks/c.py": "from sptcore.data.coco import read\n",
        "sptcore/labels/d.py": "from ..training import loop\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert len(breaches(path)) == 1, name


def test_sptcore_knows_no_command_line_and_nobody_knows_click() -> None:
    found = []
    for path in MODULES:
        name = module_name(path)
        banned = {"click"} | ({"typer", "rich", "sptcli"} if name.startswith("sptcore") else set())
        banned |= {"torch", "torchvision", "safetensors"} if room(name) in ("data", "labels") else set()
        found += [f"{name} imports {dotted}" for dotted, _ in imports(path) if dotted.split(".")[0] in banned]
    assert found == []


def test_ops_and_models_see_no_file() -> None:
    found = []
    for path in MODULES:
        if room(module_name(path)) in ("ops", "models"):
            found += [f"{path}: {dotted}" for dotted, _ in imports(path) if dotted.split(".")[0] in FILELESS]
            found += [f"{path}: open()" for name in called_names(path) if name == "open"]
    assert found == []


def called_names(path: Path) -> list[str]:
    calls = (node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
    return [function.id for function in calls if isinstance(function, ast.Name)]


def test_kernels_are_imported_where_they_are_used() -> None:
    found = []
    for path in MODULES:
        inside = {id(node) for function in functions(path) for node in ast.walk(function)}
        for dotted, node in imports(path):
            words = dotted.split(".")
            at_top = "kernel" in words and id(node) not in inside
            crossed = ("kernel" in words and path.name == "reference.py") or (
                "reference" in words and path.name == "kernel.py"
            )
            found += [f"{path}:{node.lineno}: {dotted}"] * (at_top or crossed)
    assert found == []


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function; of a command, whose signature is its table of options, the lines of the body."""
    first = function.body[0].lineno if function.name == "command" else function.lineno
    return (function.end_lineno or first) - first + 1


def test_files_and_functions_are_short() -> None:
    found = []
    for path in (path for path in [*MODULES, *TESTS] if path.name != "kernel.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        found += [f"{module_name(path)}: {lines} lines, make it a folder"] * (lines > 400)
        found += [f"{module_name(path)}.{f.name}: {length(f)} lines" for f in functions(path) if length(f) > 60]
    assert found == []


def test_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert [path for path in [*MODULES, *TESTS] if {path.stem, path.parent.name} & drawers] == []


def test_nothing_is_left_half_done() -> None:
    found = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        marks = ("TO" + "DO", "FIX" + "ME", "raise NotImplemented" + "Error")
        found += [f"{path}: {mark}" for mark in marks if mark in text]
        found += [f"{path}: no docstring"] * bool(text.strip() and not ast.get_docstring(tree_of(path)))
        found += [f"{path}: print(), results go through the console" for name in called_names(path) if name == "print"]
    assert found == []


def modules_after(code: str, env: dict[str, str] | None = None) -> set[str]:
    """The modules loaded in a fresh interpreter once `code` has run."""
    import os

    tail = "\nimport sys; sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules))"
    command = [sys.executable, "-c", code + tail]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, timeout=300)
    errors = done.stderr.decode(errors="replace")
    assert "MODULES " in errors, errors
    return set(errors.rpartition("MODULES ")[2].split())


def run_lines(*arguments: str, code: int = 0) -> str:
    """Code that runs one command line and checks its exit code."""
    return f"from sptcli.app import main\ncode = main({list(arguments)!r})\nassert code == {code}, code\n"


def test_help_and_version_load_neither_torch_nor_numpy() -> None:
    for arguments in (("--help",), ("--version",)):
        loaded = modules_after(run_lines(*arguments))
        assert "sptcli.app" in loaded
        assert not loaded & {"torch", "torchvision", "numpy", "cv2", "h5py", "pydantic"}


def test_completion_loads_no_torch() -> None:
    for words, count in (("spt ", "1"), ("spt config --", "2")):
        code = "from sptcli.app import main\nmain([])\n"
        env = {"_SPT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
        loaded = modules_after(code, env)
        assert not loaded & {"torch", "torchvision", "numpy"}


def test_the_help_of_no_command_loads_torch() -> None:
    code = "from sptcli.app import main\nimport sys\n"
    for name in COMMANDS:
        code += f"assert main([{name!r}, '--help']) == 0\nassert 'torch' not in sys.modules, {name!r}\n"
    assert "torch" not in modules_after(code)


def test_data_and_labels_load_no_torch() -> None:
    names = [module_name(path) for path in MODULES if room(module_name(path)) in ("data", "labels")]
    assert len(names) > 5
    loaded = modules_after("".join(f"import {name}\n" for name in names))
    assert set(names) <= loaded
    assert not loaded & {"torch", "torchvision"}


@pytest.mark.parametrize(
    "name", [name for name in ("make-sparse", "make-labels", "stats", "prepare") if name in COMMANDS]
)
def test_data_commands_run_without_torch(name: str, tmp_path: Path) -> None:
    extra = {
        "make-sparse": ["--max-ratio", "0.2", "--out", str(tmp_path / "o")],
        "make-labels": ["--out", str(tmp_path / "l.h5")],
    }
    loaded = modules_after(run_lines(name, "sample", *extra.get(name, [])))
    assert "sptcore.data" in loaded
    assert not loaded & {"torch", "torchvision"}
