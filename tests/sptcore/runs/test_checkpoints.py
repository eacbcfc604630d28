"""Checkpoints: whole or not at all, one valid at every moment, nothing executed."""

from __future__ import annotations

import errno
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sptcore.errors import EnvironmentFault, IntegrityError
from sptcore.files import sha256_of
from sptcore.runs import checkpoints
from sptcore.runs.checkpoints import go_on_from, latest_checkpoint, load_checkpoint, save_checkpoint


def state(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "tensor": torch.randn(50, generator=generator), "list": [1, 2.5, "x", None]}


def filled(folder: Path, steps: int = 3, keep: int = 3) -> list[Path]:
    return [save_checkpoint(folder, state(step), step=step, keep=keep) for step in range(1, steps + 1)]


def test_a_round_trip_is_bit_equal_and_only_the_newest_stay(tmp_path: Path) -> None:
    filled(tmp_path, steps=5, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*.pt")) == ["step-00000004.pt", "step-00000005.pt"]
    assert len(list(tmp_path.iterdir())) == 6
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(loaded.pop("tensor"), state(5)["tensor"])
    assert loaded == {"step": 5, "list": [1, 2.5, "x", None]}


def test_best_stays_when_its_step_is_dropped(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1), step=1, keep=1, best=True)
    filled(tmp_path, steps=4, keep=1)
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 1
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 4


def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path) -> None:
    paths = filled(tmp_path)
    warnings: list[str] = []
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    found = latest_checkpoint(tmp_path, warnings.append)
    assert found is not None
    assert found[1]["step"] == 2
    assert len(warnings) == 1
    assert "falling back" in warnings[0]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(IntegrityError):
        latest_checkpoint(tmp_path, warnings.append)


def test_no_checkpoint_at_all_is_no_error(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path, pytest.fail) is None


def test_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = filled(tmp_path, steps=1)[0]
    whole = path.read_bytes()
    generator = random.Random(1)
    for position in generator.sample(range(len(whole)), 60):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            load_checkpoint(path)


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_payload_is_refused_and_not_run(tmp_path: Path, writer: str) -> None:
    path, canary = tmp_path / "step-00000001.pt", tmp_path / "canary"
    if writer == "torch":
        torch.save({"step": 1, "x": Payload(canary)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(canary)))
    (tmp_path / "step-00000001.pt.sha256").write_text(sha256_of(path))
    with pytest.raises(IntegrityError):
        load_checkpoint(path)
    assert not canary.exists()
    torch.load(path, weights_only=False) if writer == "torch" else pickle.loads(path.read_bytes())
    assert canary.exists(), "negative control: the payload would have run"


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_is_said_and_the_earlier_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    filled(tmp_path, steps=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*arguments: Any) -> Any:
        raise full

    if failing == "write":
        monkeypatch.setattr(checkpoints._HashingStream, "write", lambda self, data: _note(self, full))
    else:
        monkeypatch.setattr("sptcore.files.os.fsync", fail)
    with pytest.raises(EnvironmentFault, match="No space"):
        save_checkpoint(tmp_path, state(2), step=2, keep=1)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in before}
    assert after == before
    assert not (tmp_path / "step-00000002.pt").exists()


def _note(stream: Any, error: OSError) -> int:
    stream.error = error
    raise error


def test_saving_a_whole_checkpoint_again_never_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run that saves at the step it started from must not put its only checkpoint at risk."""
    path = save_checkpoint(tmp_path, state(1), step=1, keep=1)
    monkeypatch.setattr(checkpoints, "_write", lambda *_: pytest.fail("written again"))
    save_checkpoint(tmp_path, state(1), step=1, keep=1)
    assert load_checkpoint(path)["step"] == 1


def test_best_is_the_last_that_is_tried(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1), step=1, keep=1, best=True)
    newest = filled(tmp_path, steps=3, keep=1)[-1]
    newest.unlink()
    newest.write_bytes(b"damaged")
    warnings: list[str] = []
    found = latest_checkpoint(tmp_path, warnings.append)
    assert found is not None
    assert (found[0].name, found[1]["step"], len(warnings)) == ("best.pt", 1, 1)


def test_going_on_from_the_best_drops_what_came_after_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1), step=1, keep=1, best=True)
    filled(tmp_path, steps=4, keep=2)
    go_on_from(tmp_path / "best.pt", step=1, best=True)
    names = {"step-00000001.pt", "last.pt", "best.pt"}
    assert {path.name for path in tmp_path.iterdir()} == names | {f"{name}.sha256" for name in names}
    assert [load_checkpoint(tmp_path / name)["step"] for name in sorted(names)] == [1, 1, 1]
    save_checkpoint(tmp_path, state(2), step=2, keep=1)
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2


@pytest.mark.parametrize("links", range(5))
def test_a_kill_between_two_links_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: int) -> None:
    """Whichever link was the last one made, a whole checkpoint is found, and going on from it mends the names."""
    save_checkpoint(tmp_path, state(1), step=1, keep=1, best=True)
    link, made = checkpoints._link, []

    def killed(source: Path, target: Path) -> None:
        if len(made) == links:
            raise KeyboardInterrupt
        made.append(target)
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_link", killed)
        try:
            save_checkpoint(tmp_path, state(2), step=2, keep=1, best=True)
        except KeyboardInterrupt:
            assert links < 4
    if links == 3:  # best.pt is new, its digest old
        with pytest.raises(IntegrityError):
            load_checkpoint(tmp_path / "best.pt")
    found = latest_checkpoint(tmp_path, pytest.fail)
    assert found is not None
    go_on_from(found[0], step=found[1]["step"], best=True)
    assert [load_checkpoint(tmp_path / name)["step"] for name in ("last.pt", "best.pt")] == [2, 2]


@pytest.mark.parametrize("reason", [errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK])
def test_names_without_hard_links_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    """The best outlives its step all the same, and a run goes on from it."""

    def refused(*arguments: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(checkpoints.os, "link", refused)
    save_checkpoint(tmp_path, state(1), step=1, keep=1, best=True)
    assert not (tmp_path / "best.pt").samefile(tmp_path / "last.pt")
    for step in (2, 3):
        save_checkpoint(tmp_path, state(step), step=step, keep=2)
    assert [load_checkpoint(tmp_path / name)["step"] for name in ("best.pt", "last.pt")] == [1, 3]
    go_on_from(tmp_path / "best.pt", step=1, best=True)
    assert [path.name for path in tmp_path.glob("step-*.pt")] == ["step-00000001.pt"]
    assert [load_checkpoint(tmp_path / name)["step"] for name in ("best.pt", "last.pt")] == [1, 1]
