"""The frame: options before and after a command, exit codes, the JSON envelope, streams, and what is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sptcli.app import COMMANDS, app
from sptcli.dispatch import PANELS
from sptcore import __version__
from sptcore.files import sha256_of
from tests.support.cli import spt, spt_process
from tests.support.probe import probe_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _probe() -> Iterator[None]:
    with probe_command():
        yield


def probe_process(*arguments: str, env: dict[str, str] | None = None, **settings) -> subprocess.CompletedProcess[bytes]:
    """`spt probe` in a fresh interpreter."""
    command = [sys.executable, "-m", "tests.support.probe", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, timeout=120, **settings
    )


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("usage", 2), ("data", 3), ("environment", 4), ("integrity", 5), ("numerical", 6), ("resource", 7),
        ("bug", 1), ("memory", 7), ("interrupt", 130), ("missing", 4), ("library", 4), ("own-import", 1),
    ],
)  # fmt: skip
def test_every_failure_has_its_exit_code_and_one_document(action: str, code: int) -> None:
    ran = spt("probe", action, "--json")
    assert ran.code == code
    assert ran.document["schema"] == "spt.probe/1"
    assert ran.document["ok"] is False
    assert ran.document["error"]["code"] == code
    assert set(ran.document["error"]) == {"code", "message", "where", "hint"}
    assert "Traceback" not in ran.err


def test_an_error_is_one_screen_on_stderr() -> None:
    ran = spt("probe", "data")
    assert ran.out == ""
    assert ran.err.splitlines() == ["error: a", "where: b", " hint: c"]


def test_a_traceback_is_shown_only_when_asked_for() -> None:
    assert "Traceback" not in spt("probe", "bug").err
    assert "--debug" in spt("probe", "bug").err
    assert "ZeroDivisionError" in spt("probe", "bug", "--debug").err.split("Traceback")[1]
    assert "Traceback" in spt("--debug", "probe", "bug").err
    assert "Traceback" in spt("probe", "bug", env={"SPT_DEBUG": "1"}).err
    assert "Traceback" not in spt("probe", "bug", env={"SPT_DEBUG": "0"}).err


def test_markup_in_messages_is_printed_literally() -> None:
    assert "[red]zero[/red]" in spt("probe", "bug").err
    ran = spt("probe", "--data", "[bold]x[/bold]\x1b[31m\n")
    assert "[bold]x[/bold]\\x1b[31m\\n" in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("arguments", [("--json", "probe"), ("probe", "--json"), ("--json", "probe", "--json")])
def test_shared_options_stand_before_or_after_the_command(arguments: tuple[str, ...]) -> None:
    ran = spt(*arguments)
    assert ran.code == 0
    assert ran.document["ok"] is True
    assert ran.document["artefacts"] == {"log": "a/log.txt"}
    assert ran.document["next"] == "spt probe again"


def test_result_goes_to_stdout_and_the_rest_to_stderr() -> None:
    ran = spt("probe")
    assert "text sample" in ran.out
    assert ran.err.splitlines() == ["a note", "warning: a warning", "log: a/log.txt", "next: spt probe again"]
    assert "a detail" in spt("probe", "-v").err
    assert spt("probe", "--quiet").err.splitlines() == ["warning: a warning"]
    assert "text sample" in spt("-q", "probe").out


def test_json_progress_keeps_stderr_in_json() -> None:
    events = [json.loads(line) for line in spt("probe", "--progress", "json").err.splitlines()]
    assert [event["event"] for event in events] == ["note", "warning", "end"]
    assert events[-1] == {"event": "end", "artefacts": {"log": "a/log.txt"}, "next": "spt probe again"}
    (event,) = [json.loads(line) for line in spt("probe", "data", "--progress", "json").err.splitlines()]
    assert event == {"event": "error", "code": 3, "message": "a", "where": "b", "hint": "c"}


def test_a_failed_check_keeps_its_result() -> None:
    ran = spt("probe", "result-then-fail", "--json")
    assert ran.code == 5
    assert ran.document["ok"] is False
    assert ran.document["lr"] == 1.0
    assert ran.document["error"]["message"] == "AP 0.1 is below 0.2"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("prob",), "probe"), (("probe", "--lrr", "1"), "did you mean '--lr'?"), (("probe", "--lr", "x"), "--help"),
        (("probe", "--res", "12"), "--help"), (("probe", "--progress", "loud"), "--help"),
        (("probe", "a", "b"), "--help"),
        (("--json",), "--help"), (("probe", "--set", "lr"), None), (("probe", "-c", "nowhere.toml"), None),
    ],
)  # fmt: skip
def test_usage_errors_are_two_with_an_envelope(arguments: tuple[str, ...], hint: str | None) -> None:
    ran = spt("--json", *arguments)
    assert ran.code == 2
    assert ran.document["ok"] is False
    assert ran.document["error"]["code"] == 2
    if hint:
        assert hint in f"{ran.document['error']['message']} {ran.document['error']['hint']}"
    assert spt(*arguments).code == 2


def test_a_word_after_two_dashes_is_no_option() -> None:
    ran = spt("probe", "--", "--json")
    assert ran.code == 0
    assert "text sample" in ran.out


def test_version_and_help_everywhere() -> None:
    assert spt("--version").out == f"spt {__version__}\n"
    assert spt("probe", "-V").out == f"spt {__version__}\n"
    assert spt("--json", "--version").document["version"] == __version__
    for arguments in (("--help",), ("-h",)):
        assert "probe" in spt(*arguments).out
        assert "Show what a command is given [red], or fail." in spt("probe", *arguments).out
        assert "spt probe show" in spt("probe", *arguments).out
    assert spt("probe", "--help", "-c", "nowhere.toml").code == 0
    assert spt().code == 2
    assert "Usage" in spt().out


def test_the_runner_of_typer_sees_the_same() -> None:
    from typer.testing import CliRunner

    assert CliRunner().invoke(app, ["probe", "data"]).exit_code == 3
    assert json.loads(CliRunner().invoke(app, ["probe", "--json"]).stdout)["ok"] is True


def test_only_rank_zero_speaks() -> None:
    ran = spt("probe", "--json", env={"RANK": "1", "WORLD_SIZE": "2"})
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert spt("probe", "--json", env={"RANK": "0", "WORLD_SIZE": "2"}).document["ok"] is True


def test_settings_in_their_order(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[probe]\ndata = "paper"\nlr = 2\ndrop = false\nnames = ["a", "b"]\nmax-ratio = 0.25\n')

    def read(*arguments: str, **env: str) -> dict:
        return spt("probe", "--json", *arguments, env=env).document

    assert read()["lr"] == 1.0
    assert read()["explicit"] is False
    assert (read("--data", "paper")["lr"], read("--data", "paper")["explicit"]) == (5.0, False)
    assert read("--data", "paper")["origins"]["lr"] == "preset paper"
    document = read("-c", str(config))
    assert (document["lr"], document["res"], document["drop"], document["names"]) == (2.0, [3, 4], False, ["a", "b"])
    assert document["max_ratio"] == "1/4"
    assert document["origins"]["lr"] == f"{config} [probe]"
    assert read("-c", str(config), "--set", "lr=3")["lr"] == 3.0
    assert read("--set", "probe.lr=3")["origins"]["lr"] == "--set probe.lr=3"
    document = read("-c", str(config), "--set", "lr=3", SPT_PROBE_LR="4", SPT_PROBE_MAX_RATIO="1/3")
    assert (document["lr"], document["origins"]["lr"]) == (4.0, "SPT_PROBE_LR")
    assert document["max_ratio"] == "1/3"
    document = read("-c", str(config), "--lr", "6", SPT_PROBE_LR="4")
    assert (document["lr"], document["origins"]["lr"], document["explicit"]) == (6.0, "flag", True)


def test_the_settings_of_a_run_repeat_it(tmp_path: Path) -> None:
    first = spt(
        "probe", "--json", "--res", "8x9", "--names", "a", "--names", "b", "--no-drop", "--max-ratio", "0.3"
    ).document
    config = tmp_path / "again.toml"
    config.write_text(first["toml"])
    second = spt("probe", "--json", "-c", config).document
    assert {key: second[key] for key in ("res", "names", "drop", "max_ratio", "toml")} == {
        key: first[key] for key in ("res", "names", "drop", "max_ratio", "toml")
    }


def test_settings_without_a_flag(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[probe]\ncrop_prob = 0.25\nscales = [0.5]\n")
    document = spt("probe", "--json", "-c", config, "--set", "crop-prob=0.75").document
    assert document["extra"] == {"crop_prob": 0.75, "scales": [0.5]}
    assert document["origins"]["crop_prob"] == "--set crop-prob=0.75"
    again = tmp_path / "again.toml"
    again.write_text(document["toml"])
    assert spt("probe", "--json", "-c", again).document["extra"] == document["extra"]
    assert spt("probe", "--json", "--data", "paper").document["extra"] == {"scales": [0.5, 1.0]}
    ran = spt("probe", "--json", "--data", "paper", "-c", config, env={"SPT_PROBE_CROP_PROB": "0"})
    assert ran.document["extra"] == {"crop_prob": 0, "scales": [0.5]}
    assert "sets nothing" not in ran.err
    assert "did you mean 'crop-prob'?" in spt("probe", "--set", "crop-porb=1").err


def test_a_file_may_spell_a_flag_by_any_of_its_names(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    for key in ("lr", "learning-rate", "learning_rate"):
        config.write_text(f"[probe]\n{key} = 3\n")
        assert spt("probe", "--json", "-c", config).document["lr"] == 3.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[probe]\nlrr = 1\n", ("no setting 'lrr'", "did you mean 'lr'?")),
        ("[prob]\nlr = 1\n", ("unknown table [prob]", "did you mean 'probe'?")),
        ("lr = 1\n", ("unknown table [lr]", "[train]")),
        ("probe = 1\n", ("probe is a table",)),
        ("[probe\n", ("not valid TOML",)),
        ('[probe]\nlr = "x"\n', ("'--lr'", "[probe]")),
    ],
)
def test_a_faulty_settings_file_is_named(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    ran = spt("probe", "-c", config)
    assert ran.code == 2
    assert str(config) in ran.err
    for word in words:
        assert word in ran.err


def test_a_misspelt_variable_is_a_warning() -> None:
    ran = spt("probe", env={"SPT_PROBE_LRR": "1"})
    assert ran.code == 0
    assert "SPT_PROBE_LRR sets nothing; did you mean 'SPT_PROBE_LR'?" in ran.err
    assert "setting lr = 2" in spt("probe", "-v", "--lr", "2").err


def test_warnings_are_lines_and_those_of_libraries_wait_for_verbose() -> None:
    plain, verbose = spt("probe", "warn").err, spt("probe", "warn", "-v").err
    assert "warning: of ours\n" in plain
    assert "of a library" not in plain
    assert "warning: UserWarning in /site-packages/lib.py:3: of a library" in verbose


def test_sigterm_is_143() -> None:
    ran = probe_process("probe", "terminate", "--json")
    assert ran.returncode == 143
    assert json.loads(ran.stdout)["error"]["message"] == "terminated"


@pytest.mark.parametrize("arguments", [("--help",), ("probe", "--json"), ("probe",), ("probe", "data", "--json")])
def test_a_closed_pipe_is_no_traceback(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "tests.support.probe", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(timeout=120) in (0, 141)
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_closed_from_the_start_are_no_fault(closed: str, tmp_path: Path) -> None:
    """What is written meanwhile must not get the number of a stream, and with it what is printed."""
    out = tmp_path / "labels.h5"
    command = (
        f'"{sys.executable}" -m sptcli make-sparse sample -r .2 --out "{tmp_path / "set"}" --quiet --json {closed}'
    )
    assert subprocess.run(["bash", "-c", command], capture_output=True, timeout=300).returncode == 0
    command = f'"{sys.executable}" -m sptcli make-sparse "{out}" -r .2 --json {closed}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=300)
    assert (done.returncode, b"Traceback" in done.stderr) == (3, False)
    ratios, manifest = (tmp_path / "set" / name for name in ("ratios.csv", "manifest.json"))
    assert ratios.read_text().startswith("split,image_id")
    assert json.loads(manifest.read_text())["output"]["files"]["ratios.csv"] == sha256_of(ratios)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_result_that_cannot_be_written_is_a_full_disk(json_flag: list[str]) -> None:
    command = [sys.executable, "-m", "sptcli", "config", "show", "stats", *json_flag]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, "No space left on device" in done.stderr) == (4, True)
    assert "Traceback" not in done.stderr


def test_a_poor_locale_writes_escapes() -> None:
    ran = probe_process("probe", "--data", "größe→", env={"PYTHONIOENCODING": "ascii"})
    assert ran.returncode == 0
    assert b"gr\\xf6\\xdfe\\u2192" in ran.stdout
    poor = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    ran = probe_process("probe", "--data", "größe→", env=poor)
    assert ran.returncode == 0
    assert b"text gr\\u" in ran.stdout
    ran = probe_process("--help", env=poor)
    assert ran.returncode == 0
    ran.stdout.decode("ascii")


def test_colour_follows_the_environment() -> None:
    plain = {"FORCE_COLOR": "", "NO_COLOR": "", "TERM": "xterm"}
    assert b"\x1b[" not in probe_process("probe", "data", env=plain).stderr
    assert b"\x1b[" in probe_process("probe", "data", env={**plain, "FORCE_COLOR": "1"}).stderr
    assert b"\x1b[31m" not in probe_process("probe", "data", env={**plain, "FORCE_COLOR": "1", "NO_COLOR": "1"}).stderr


def test_columns_set_the_width() -> None:
    name = "word " * 40
    narrow = spt("probe", "--data", name, env={"COLUMNS": "40"}).out.split("text ")[0]
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= 40
    wide = spt("probe", "--data", name, env={"COLUMNS": "400"}).out.split("text ")[0]
    assert max(len(line.rstrip()) for line in wide.splitlines()) > 150


def test_no_home_and_a_private_umask_are_fine(tmp_path: Path) -> None:
    locked = tmp_path / "home"
    locked.mkdir(mode=0o500)
    assert spt_process("config", "show", env={"HOME": str(locked), "SPT_CACHE": ""}).code == 0
    code = (
        "import os, sys; os.umask(0o077); os.environ.pop('HOME', None); from sptcli.app import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, "config", "show"], capture_output=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_table_lists_modules_that_exist() -> None:
    panels = {*PANELS, "Test"}
    for name, entry in COMMANDS.items():
        path = ROOT / (entry.module.replace(".", "/") + ".py")
        assert path.is_file() or (path.with_suffix("") / "__init__.py").is_file(), name
        assert entry.panel in panels
        assert 10 < len(entry.line) < 80
        assert not entry.line.endswith(".")
