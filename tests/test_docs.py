"""The documentation law: the reference is the help, examples parse, links and names lead somewhere."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from sptcli.app import COMMANDS
from sptcli.dispatch import flag_name, load
from sptcli.flags import global_params
from sptcli.reference import reference

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SEPARATORS = {"|", ">", ">>", "&&", ";", "||", "2>"}
WITH_PYTHON = [ROOT / "README.md", ROOT / "docs" / "guide.md"]  # whose Python runs as it stands
RECORD_PARTS = ("Status:", "## Question", "## Decision", "## Why", "## Looked at and left", "## What it costs")


def spt_lines(text: str) -> Iterator[str]:
    """The command lines `spt ...` in the code blocks of a Markdown text, continuation lines joined."""
    for language, block in re.findall(r"^```([^\n]*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language == "text":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for words in re.split(r"\s(?:&&|;)\s", re.sub(r"^srun .*?(?=spt )", "", line.strip().removeprefix("$ "))):
                if words.startswith("spt "):
                    yield words


def parse(line: str) -> None:
    """Parse one command line as `spt` would, without running it; anything it would refuse is an exception."""
    words = shlex.split(line, comments=True)
    end = next((index for index, word in enumerate(words) if word in SEPARATORS), len(words))
    words = words[1:end]
    if words[0].startswith("-"):
        from tests.support.cli import spt

        assert spt(*words).code == 0, line
        return
    assert words[0] in COMMANDS, f"{line}: no command {words[0]}"
    load(words[0], COMMANDS[words[0]]).make_context(f"spt {words[0]}", words[1:], resilient_parsing=False)


def test_the_reference_is_what_the_commands_say() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    change = "\n".join(difflib.unified_diff(written.splitlines(), reference().splitlines(), "docs/cli.md", "help", n=0))
    assert not change, f"run: python -m sptcli.reference > docs/cli.md\n{change}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_examples_that_parse(name: str) -> None:
    command = load(name, COMMANDS[name])
    assert command.module is not None
    assert len(command.help or "") > 40
    examples = command.module.EXAMPLES
    assert examples
    for line in examples:
        assert line.startswith(f"spt {name}"), line
    for param in command.own_params():
        assert getattr(param, "help", None) or param.param_type_name == "argument", f"{name} {param.name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_spells_an_option_of_the_frame(name: str) -> None:
    taken = {option for param in global_params() for option in param.opts} | {"--help", "-h"}
    params = load(name, COMMANDS[name]).own_params()
    options = [
        option
        for param in params
        if param.param_type_name == "option"
        for option in (*param.opts, *param.secondary_opts)
    ]
    assert not taken & set(options)
    assert len(options) == len(set(options))
    keys = [flag_name(param) for param in params]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_in_the_documents_parse(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for line in spt_lines(path.read_text(encoding="utf-8")):
        if "--config" in line or re.search(r"\s-c\s", line):
            continue  # a settings file is read while parsing; tests/sptcli/test_config.py covers it
        parse(line)


def python_blocks(text: str) -> list[str]:
    """The Python of a Markdown text, block by block."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: path.name)
def test_python_in_the_documents_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In order, each block seeing what those before it made."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = python_blocks(path.read_text(encoding="utf-8"))
    assert blocks
    left = [block for block in blocks if "import timm" in block and not importlib.util.find_spec("timm")]
    for block in blocks:
        if block not in left:
            exec(compile(block, path.name, "exec"), names)
    if left:
        pytest.skip("timm is not installed (spt[timm]); the other blocks ran")


def test_python_is_found_and_a_fault_in_it_is_seen() -> None:
    """Negative control."""
    (block,) = python_blocks("text\n```python\nimport sptcore.no_such_room\n```\n```bash\nls\n```\n")
    with pytest.raises(ModuleNotFoundError):
        exec(compile(block, "text", "exec"), {})


def test_the_parser_of_examples_refuses_what_is_wrong() -> None:
    """Negative control."""
    parse("spt models spt-t --res 64x64 | head")
    with pytest.raises(Exception, match="No such option"):
        parse("spt models --no-such-option")
    with pytest.raises(AssertionError):
        parse("spt no-such-command")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(place), f"{path.name}: {target}"


def anchors(path: Path) -> set[str]:
    """The anchors that headings of a Markdown file make."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_the_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"`((?:sptcore|sptcli)(?:\.\w+)+)(?:\(\))?`", text))):
        assert resolves(name), f"{path.name}: {name}"
    for name in sorted(set(re.findall(r"`((?:sptcore|sptcli|tests|docs)/[\w./-]+)`", text))):
        assert (ROOT / name).exists(), f"{path.name}: {name}"


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def test_nothing_names_a_machine() -> None:
    banned = [f"/{folder}/" for folder in ("work", "root", "opt")] + ["host" + "-cache"]
    found = []
    for path in [*DOCS, *(ROOT / "sptcore").rglob("*.py"), *(ROOT / "sptcli").rglob("*.py"), ROOT / "pyproject.toml"]:
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in banned if word in text]
    assert found == []


def test_decision_records_are_whole() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(len(records)))
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert [part for part in RECORD_PARTS if part not in text] == [], path.name
