"""TAB: what is offered where, the words held against the modules that define them, and nothing heavy loaded for it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import pytest

from sptcli import completion
from sptcli.app import COMMANDS
from sptcli.dispatch import flag_name, load

UNLOADED = """
import sys
from sptcli.app import main
try:
    main([])
finally:
    heavy = {"torch", "torchvision", "numpy", "cv2", "h5py"} & set(sys.modules)
    print("heavy:", sorted(heavy), file=sys.stderr)
"""


def offered(line: str) -> list[str]:
    """What bash is told after `line`, whose last word (perhaps empty) is being typed, in a fresh interpreter."""
    words = line.split(" ")
    env = {**os.environ, "_SPT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    ran = subprocess.run([sys.executable, "-c", UNLOADED], env=env, capture_output=True, text=True, check=False)
    assert "heavy: []" in ran.stderr, ran.stderr
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("spt config show tr", ["train"]),
        ("spt config init m", ["make-sparse", "make-labels", "models"]),
        ("spt config check ", []),
        ("spt config check train.toml ev", ["evaluate"]),
        ("spt train --task ", ["detect", "multilabel", "classify"]),
        ("spt train --packing s", ["stream"]),
        ("spt train --rpb s", ["spatial", "slot"]),
        ("spt train --model spt-g", ["spt-gt-nano", "spt-gt-t", "spt-gt-s", "spt-gt-b"]),
        ("spt train --preset detect", ["detect-paper"]),
        ("spt train --val-data t", ["tiny-imagenet"]),
        ("spt viz-selection --style ", ["heat", "mask", "dots"]),
        ("spt profile --by s", ["stage"]),
        ("spt profile --amp ", ["off", "bf16", "fp16"]),  # typer's own: no auto here
        ("spt compare --metrics ap,ma", ["ap,macs"]),
        ("spt compare --metrics ap,a", []),
        ("spt reproduce table1", ["table1"]),
        ("spt train --epochs ", []),
    ],
)
def test_what_is_offered(line: str, expected: list[str]) -> None:
    assert offered(line) == expected


def test_every_word_of_the_table_belongs_to_an_option_or_argument() -> None:
    params = {(name, param.name, flag_name(param)) for name in COMMANDS for param in load(name, COMMANDS[name]).params}
    assert set(completion.OPTIONS) <= {flag for _, _, flag in params}
    assert set(completion.ARGUMENTS) <= {(command, name) for command, name, _ in params}
    assert set(completion.OTHERWISE) <= {(command, flag) for command, _, flag in params}


def test_the_words_are_those_of_the_modules_that_define_them() -> None:
    from sptcore.labels.build import SOURCES
    from sptcore.models.config import BYPASS_NAMES, FFN_NAMES
    from sptcore.models.variants import VARIANTS
    from sptcore.ops.packed_attention import BIASES
    from sptcore.ops.packing import MODES
    from sptcore.reporting.comparison import METRICS
    from sptcore.tasks import TASKS
    from sptcore.training.config import LOGS, TrainConfig
    from sptcore.viz.heatmap import COLORMAPS, STYLES

    assert sorted(completion.MODELS) == sorted(VARIANTS)
    exact = {"colormap": COLORMAPS, "ffn": FFN_NAMES, "labels": SOURCES, "log": LOGS, "metrics": METRICS,
             "packing": MODES, "rpb": BIASES, "style": STYLES, "task": TASKS}  # fmt: skip
    for name, words in exact.items():
        assert sorted(completion.OPTIONS[name]) == sorted(words), name  # type: ignore[arg-type]
    assert set(completion.OPTIONS["bypass"]) < set(BYPASS_NAMES)  # the others belong to a family of models
    for name in ("amp", "heads", "schedule", "task"):
        assert completion.OPTIONS[name] == get_args(TrainConfig.model_fields[name].annotation), name
