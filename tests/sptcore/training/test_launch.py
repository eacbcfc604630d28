"""Places by torchrun's and SLURM's variables, where machines meet, and what is told of a process that died."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

from sptcore.errors import EnvironmentFault, ResourceError, UsageError
from sptcore.training.launch import Place, check_gpus, find_place, first_host, launch, meeting_point

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
SRUN = {
    "SLURM_JOB_ID": "41", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1",
    "SLURM_NODELIST": "gpu[07-08]",
}  # fmt: skip


def test_places_of_torchrun_and_srun() -> None:
    assert find_place(4, TORCHRUN) == Place(3, 4, 1, "a", 7)
    hosted = find_place(4, TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert hosted is not None
    assert hosted.hosted
    assert find_place(4, SRUN, nodes=2) == Place(3, 4, 1, "gpu07", 20041)
    assert find_place(4, SRUN | {"MASTER_ADDR": "b", "MASTER_PORT": "9"}) == Place(3, 4, 1, "b", 9)
    assert find_place(4, SRUN | TORCHRUN) == Place(3, 4, 1, "a", 7)


def test_an_elastic_launch_may_start_any_number_of_workers() -> None:
    """torchrun --nnodes 1:4 started two of four, then a single one, which must not start the others itself."""
    worker = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "7", "TORCHELASTIC_RUN_ID": "x"}
    assert find_place(4, worker | {"WORLD_SIZE": "2"}, nodes=4) == Place(0, 2, 0, "a", 7)
    assert find_place(4, worker | {"WORLD_SIZE": "1"}, nodes=4) == Place(0, 1, 0, "a", 7)
    assert find_place(1, worker | {"WORLD_SIZE": "1"}) is None
    assert find_place(4, {"RANK": "0", "WORLD_SIZE": "1"}) is None  # a container's, whose processes are ours to start


@pytest.mark.parametrize(
    ("world", "nodes", "environ"),
    [
        (1, 1, {}),
        (4, 1, {}),
        (1, 1, {"RANK": "0", "WORLD_SIZE": "1"}),
        (8, 4, SRUN),  # a launcher on each of four machines
        (4, 1, {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}),  # a batch script
        (4, 1, SRUN | {"SLURM_STEP_NUM_TASKS": "1"}),
    ],
)
def test_who_has_no_place_yet(world: int, nodes: int, environ: dict[str, str]) -> None:
    assert find_place(world, environ, nodes=nodes) is None


@pytest.mark.parametrize("world", [1, 3, 8])
def test_srun_and_the_settings_must_agree(world: int) -> None:
    with pytest.raises(UsageError, match=f"srun started 4 processes, the settings are for {world}"):
        find_place(world, SRUN)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("n1", "n1"), ("n1,n2", "n1"), ("gpu[003-007,010],login1", "gpu003"), ("a[2,5-6]-b[07-09],c", "a2-b07"),
    ],
)  # fmt: skip
def test_the_first_machine_of_a_slurm_job(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_where_machines_meet() -> None:
    assert meeting_point("h:1", {}) == "h:1"
    assert meeting_point(None, {"MASTER_ADDR": "m"}) == "m:29500"
    assert meeting_point(None, SRUN) == "gpu07:20041"
    for rdzv in ("h", "h:", ":1", "h:x"):
        with pytest.raises(UsageError, match="HOST:PORT"):
            meeting_point(rdzv, {})
    with pytest.raises(UsageError) as caught:
        meeting_point(None, {})
    assert "--rdzv" in str(caught.value.hint)


def test_more_processes_than_gpus_are_refused() -> None:
    check_gpus(2, None, count=2)
    check_gpus(2, (3, 1), count=4)
    with pytest.raises(EnvironmentFault, match="4 GPUs of a machine, this one has 2"):
        check_gpus(4, None, count=2)
    with pytest.raises(EnvironmentFault, match="GPU 3 is not available"):
        check_gpus(2, (3, 1), count=3)


def die(rank: int) -> list[str]:
    return ["-c", f"import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '{rank}' else time.sleep(60)"]


def test_a_rank_that_is_killed_is_named() -> None:
    told: list[str] = []
    assert launch(die(1), 2, tell=told.append) == 7
    assert len(told) == 1
    assert "rank 1 was killed by SIGKILL" in told[0]
    with pytest.raises(ResourceError, match="rank 0 was killed by SIGKILL"):
        launch(die(0), 2, tell=told.append)


def test_the_first_rank_to_fail_is_named_with_its_code() -> None:
    told: list[str] = []
    program = "import os, sys, time; sys.exit(5) if os.environ['RANK'] == '1' else time.sleep(60)"
    assert launch(["-c", program], 2, tell=told.append) == 5
    assert told == ["rank 1 was the first to fail, with exit code 5"]


@pytest.mark.slow
def test_launchers_of_two_machines_meet() -> None:
    """Both on this machine, a process each: the ranks are counted over both."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rdzv = f"localhost:{probe.getsockname()[1]}"
    say = "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)"
    call = f"launch(['-c', {say!r}], 1, nodes=2, rdzv={rdzv!r})"
    program = f"from sptcore.training.launch import launch; raise SystemExit({call})"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    command = [sys.executable, "-c", program]
    launchers = [subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    said = [launcher.communicate(timeout=300)[0].strip() for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0]
    assert sorted(said) == ["rank 0 of 2", "rank 1 of 2"]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is missing"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number"),
        (TORCHRUN | {"MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        (SRUN | {"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'"),
        (SRUN | {"SLURM_NTASKS": "4(x2)"}, "SLURM_NTASKS is"),
    ],
)
def test_variables_set_by_halves_are_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        find_place(4, environ)


def test_an_empty_variable_of_slurm_is_none() -> None:
    assert find_place(4, SRUN | {"SLURM_PROCID": ""}) is None


def test_torch_does_not_speak_beside_us() -> None:
    program = (
        "import logging; from sptcore.training.launch import launch\n"
        "code = launch(['-c', 'raise SystemExit(3)'], 2)\n"
        "raise SystemExit(code if logging.root.manager.disable == logging.NOTSET else 1)"
    )
    ran = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=300)
    assert (ran.returncode, ran.stderr) == (3, "")
