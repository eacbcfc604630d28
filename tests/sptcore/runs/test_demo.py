from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.errors import DataError
from sptcore.runs import Run, demo, new_run


def test_the_last_run_with_weights_comes_before_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(demo, "DEMO_WEIGHTS", tmp_path / "demo.safetensors")
    with pytest.raises(DataError, match="no run yet"):
        demo.open_weights()
    demo.DEMO_WEIGHTS.write_bytes(b"x")
    assert demo.is_demo(demo.open_weights())
    run = new_run("train", "spt-nano-sample")
    run.make_latest("train")
    assert demo.is_demo(demo.open_weights("auto"))  # it saved no weights yet
    (run.home / "weights" / "last.safetensors").write_bytes(b"x")
    assert demo.open_weights("auto").weights.parent.parent.name == run.name
    assert not demo.is_demo(demo.open_weights("auto"))
    assert not demo.is_demo(Run(None, tmp_path / "other.safetensors"))
    with pytest.raises(DataError, match="no run or weights"):
        demo.open_weights("gone")
