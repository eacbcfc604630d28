"""Builds that end by a signal: the earlier set or the new one, whole, and the next run succeeds. Fault-table rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sptcore.data.locate import locate
from sptcore.data.sparse import SparseRule, make_sparse
from sptcore.errors import ResourceError
from tests.bench.synthetic_coco import write_synthetic
from tests.support.listening import Listener
from tests.support.sparse_sets import FIFTH, make, tree


def killed(root: Path, out: Path, point: str, jobs: int = 1) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.support.killed_build", str(root), str(out), point, str(jobs)]
    return subprocess.run(command, capture_output=True, timeout=300, cwd=Path(__file__).parents[4])


@pytest.mark.parametrize("point", ["image:1", "image:100", "image:288", "write", "publish", "published"])
@pytest.mark.parametrize("earlier", [False, True])
def test_killed_at_any_point(many: Path, tmp_path: Path, point: str, earlier: bool) -> None:  # 48
    out = tmp_path / "out"
    if earlier:
        make(many, out, SparseRule(FIFTH, drop_empty=True))
    old = tree(out) if earlier else {}
    make(many, tmp_path / "new")
    new = tree(tmp_path / "new")
    assert killed(many, out, point).returncode == -signal.SIGKILL
    assert (tree(out) if out.exists() else {}) == (new if point == "published" else old)
    make(many, out, force=True)
    assert tree(out) == new
    assert sorted(os.listdir(tmp_path)) == ["new", "out"]


def test_a_dead_worker_is_told_at_once(many: Path, tmp_path: Path) -> None:  # 57
    done = killed(many, tmp_path / "out", "worker:20", jobs=2)
    assert done.returncode == 7, done.stderr
    assert b"a worker process died" in done.stderr
    assert b"images from '0" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that takes some seconds."""
    root = tmp_path_factory.mktemp("large")
    (root / "annotations").mkdir()
    write_synthetic(root / "annotations" / "instances_train2017.json", images=4000)
    return root


def children(pid: int) -> list[int]:
    """The processes started by `pid`, by /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_with_workers(large: Path, tmp_path: Path, stop: signal.Signals, code: int) -> None:  # 49
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "sptcli",
        "make-sparse",
        large,
        "-r",
        "0.2",
        "--out",
        out,
        "--jobs",
        "2",
        "--quiet",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    work = tmp_path / ".out.spt-work"
    deadline = time.monotonic() + 120
    while not list(work.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert b"Traceback" not in err
    assert not out.exists()
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()], "orphans"
    if stop != signal.SIGKILL:
        assert os.listdir(tmp_path) == [".out.spt-work"], "to be resumed"


@pytest.mark.parametrize("limit", [1000, 20_000, 100_000])
def test_a_full_disk(many: Path, tmp_path: Path, limit: int) -> None:  # 50, by a limit on file sizes
    out = tmp_path / "out"
    make(many, out)
    before = tree(out)
    code = (
        "import resource, signal, sys; from sptcli.app import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))\n"
        "sys.exit(main(['make-sparse', sys.argv[1], '-r', '0.5', '--out', sys.argv[2], '--force', '--jobs', '1']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, many, out, str(limit)], capture_output=True, timeout=120)
    size = (many / "annotations" / "instances_train2017.json").stat().st_size
    assert size > 100_000, "the largest limit is too small as well"
    assert done.returncode == 4, done.stderr
    assert b"File too large" in done.stderr
    assert tree(out) == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".spt-tmp")]


def test_too_little_memory(large: Path, many: Path, tmp_path: Path) -> None:  # 58
    """What a small set needed and nothing more, for a file of 16 MB."""
    code = (
        "import resource, sys; from sptcli.app import main\n"
        "run = lambda data: main(['make-sparse', data, '-r', '0.2', '--out', sys.argv[3], '--jobs', '1', '--force'])\n"
        "assert run(sys.argv[1]) == 0\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used, -1))\n"
        "sys.exit(run(sys.argv[2]))\n"
    )
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code, many, large, out], capture_output=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert b"needs about" in done.stderr
    assert b"Traceback" not in done.stderr
    make(many, tmp_path / "same")
    assert tree(out) == tree(tmp_path / "same")


def test_memory_that_ends_on_the_way(many: Path, tmp_path: Path) -> None:  # 58
    def at_step(step: int) -> None:
        raise MemoryError

    with pytest.raises(ResourceError, match="not enough memory"):
        make_sparse(locate(many), SparseRule(FIFTH), tmp_path / "out", progress=Listener(at_step))
    assert not (tmp_path / "out").exists()
