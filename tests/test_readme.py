"""The five-minute tour of the README, typed as it stands, with its two long commands cut short by the environment."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from sptcore.data.sample import sample_root
from tests.support.cli import spt_process

README = Path(__file__).parents[1] / "README.md"
SHORT = {"SPT_TRAIN_EPOCHS": "1", "SPT_PROFILE_ITERS": "1", "SPT_PROFILE_WARMUP": "0", "SPT_PROFILE_RATIO": "0.3"}


def tour() -> list[list[str]]:
    """The command lines of the section, comments left out."""
    section = README.read_text(encoding="utf-8").split("## Five minutes")[1].split("```bash\n")[1].split("```")[0]
    return [shlex.split(line, comments=True) for line in section.splitlines()]


def test_the_tour_has_the_main_commands() -> None:
    named = [line[1] for line in tour()]
    assert named == [
        "stats", "make-sparse", "make-labels", "train", "evaluate", "profile", "viz-selection", "report"
    ]  # fmt: skip


@pytest.mark.slow
def test_the_tour_runs_as_it_is_written(tmp_path: Path) -> None:
    image = sorted((sample_root() / "coco" / "val2017").iterdir())[0]
    shutil.copy(image, tmp_path / "img.jpg")
    environment = SHORT | {"SPT_RUNS": str(tmp_path / "runs")}
    for words in tour():
        assert words[0] == "spt"
        ran = spt_process(*words[1:], env=environment, cwd=tmp_path)
        assert ran.code == 0, f"{shlex.join(words)}\n{ran.err}"
        assert re.search(r"\S", ran.out), words
    assert (tmp_path / "img-selection.png").stat().st_size > 0
    assert (tmp_path / "data" / "sample-s10" / "manifest.json").is_file()
