"""Where this process stands among several, by the variables of torchrun or SLURM, and starting several by ourselves."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sptcore.errors import EnvironmentFault, ResourceError, UsageError

_PORT = 29500


@dataclass(frozen=True)
class Place:
    """One process of `world`: its `rank`, its number on this machine, and where rank 0 listens.

    `hosted`: the launcher keeps the store at that address, as torch's elastic one does; else rank 0 does.
    """

    rank: int
    world: int
    local_rank: int
    host: str
    port: int
    hosted: bool = False


def find_place(world: int, environ: Mapping[str, str] = os.environ, *, nodes: int = 1) -> Place | None:
    """The place of this process in a run of `world` processes, None when nobody has started the others yet.

    torchrun's variables count first, whatever `world` is, also those of the only worker it could start for several
    (`--nnodes 1:4`); then those of a process started by srun. Raises UsageError when srun started another number of
    processes than the run has, or than it has machines, and when such variables are set by halves.
    """
    elastic = "TORCHELASTIC_RUN_ID" in environ and world > 1
    if (size := _number(environ, "WORLD_SIZE", 1)) > 1 or elastic:
        rank = _number(environ, "RANK")
        hosted = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        local = _number(environ, "LOCAL_RANK", 0)
        return Place(rank, size, local, environ.get("MASTER_ADDR") or "localhost", _port(environ), hosted)
    tasks = _srun_tasks(environ)
    if tasks in (1, nodes) and tasks != world:
        return None
    if tasks != world:
        hint = "say how many: --devices N (of a machine) and --nodes M; or srun --ntasks-per-node=1"
        raise UsageError(f"srun started {tasks} processes, the settings are for {world}", hint=hint)
    if world == 1:
        return None
    local = _number(environ, "SLURM_LOCALID", 0)
    return Place(_number(environ, "SLURM_PROCID"), world, local, _first_host(environ), _port(environ))


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The number in a launcher's variable; `default` where it is missing or empty. Raises UsageError."""
    text = environ.get(name) or ("" if default is None else str(default))
    if not text.isdecimal():
        said = f"is {text!r}, not a number" if text else "is missing beside the other variables of a launcher"
        hint = "unset RANK, WORLD_SIZE and MASTER_PORT: spt train --devices N needs none of them"
        raise UsageError(f"the environment variable {name} {said}", hint=hint)
    return int(text)


def _srun_tasks(environ: Mapping[str, str]) -> int:
    """Processes that srun started beside this one; 1 elsewhere, also in a batch script, which has its variables too."""
    in_step = "SLURM_STEP_ID" in environ or "SLURM_JOB_ID" not in environ
    if not environ.get("SLURM_PROCID") or not in_step:
        return 1
    return _number(environ, "SLURM_STEP_NUM_TASKS" if environ.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS", 1)


def _port(environ: Mapping[str, str]) -> int:
    """MASTER_PORT, else one that the processes of a SLURM job agree on and other jobs rarely take."""
    if environ.get("MASTER_PORT"):
        return _number(environ, "MASTER_PORT")
    return 20000 + int(environ["SLURM_JOB_ID"]) % 20000 if environ.get("SLURM_JOB_ID", "").isdecimal() else _PORT


def _first_host(environ: Mapping[str, str]) -> str:
    """MASTER_ADDR, else the first machine of the SLURM job, else this one."""
    if given := environ.get("MASTER_ADDR"):
        return given
    for name in ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"):
        if environ.get(name):
            return first_host(environ[name])
    return "localhost"


def first_host(nodelist: str) -> str:
    """The first name of SLURM's `gpu[003-007,010]-a,login1`: `gpu003-a`."""
    first = re.split(r",(?![^\[]*\])", nodelist.strip())[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def meeting_point(rdzv: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """HOST:PORT at which the launchers of several machines meet: `rdzv`, MASTER_ADDR, or SLURM's first machine.

    Raises UsageError when nothing says where.
    """
    if rdzv is not None:
        host, colon, port = rdzv.rpartition(":")
        if not (colon and host and port.isdecimal()):
            raise UsageError(f"--rdzv {rdzv}: not HOST:PORT", hint=f"--rdzv {rdzv.split(':')[0]}:{_PORT}")
        return rdzv
    host = _first_host(environ)
    if host == "localhost" and not environ.get("MASTER_ADDR"):
        raise UsageError("several machines need a place to meet", hint=f"--rdzv HOST:{_PORT}, HOST being one of them")
    return f"{host}:{_port(environ)}"


def check_gpus(processes: int, gpus: Sequence[int] | None, *, count: int) -> None:
    """Raise EnvironmentFault when one of `gpus`, or of the first `processes`, is not among `count` of this machine."""
    if gpus is not None and max(gpus) >= count:
        hint = f"there are {count}, counted from 0; --devices N, or see: spt doctor"
        raise EnvironmentFault(f"GPU {max(gpus)} is not available", hint=hint)
    if processes > count:
        message = f"the settings are for {processes} GPUs of a machine, this one has {count}"
        raise EnvironmentFault(message, hint=f"--devices {max(1, count)}, or --device cpu for a trial")


def launch(
    arguments: Sequence[str],
    processes: int,
    *,
    nodes: int = 1,
    rdzv: str | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> int:
    """Run `python ARGUMENTS` in `processes` processes of this machine, of one group with those of `nodes - 1` others.

    Returns the exit code of the first to fail, or 0; `tell` hears which rank that was. SIGTERM and Ctrl-C are passed on
    to them, with 30 seconds to save their state. Raises ResourceError when the leader was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = nodes > 1
    endpoint = meeting_point(rdzv) if several else "localhost:0"
    settings = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=f"spt-{os.environ.get('SLURM_JOB_ID') or endpoint}" if several else uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=0,
        monitor_interval=0.2,
    )
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # torch's lines for its own developers; what matters is told below
    try:
        elastic_launch(settings, sys.executable)(*arguments)
    except ChildFailedError as error:
        in_time = sorted(error.failures.items(), key=lambda one: one[1].timestamp)
        return _first_failure({rank: failure.exitcode for rank, failure in in_time}, tell)
    except SignalException as stop:
        return 130 if stop.sigval == signal.SIGINT else 128 + int(stop.sigval)
    except RendezvousError as error:
        hint = "the same command must run on every machine, and HOST be one of them"
        raise EnvironmentFault(f"the {nodes} machines did not meet: {error}", where=endpoint, hint=hint) from error
    finally:
        logging.disable(before)
    return 0


def _first_failure(codes: Mapping[int, int], tell: Callable[[str], None]) -> int:
    """The exit code for the failures of `codes` (by rank, the earliest first); one that was killed comes before all."""
    own = (-signal.SIGTERM, -signal.SIGINT)
    rank, code = next(((r, c) for r, c in codes.items() if c < 0 and c not in own), next(iter(codes.items())))
    if code >= 0:
        tell(f"rank {rank} was the first to fail, with exit code {code}")
        return code
    if code in own:
        return 128 - code
    message, hint = f"rank {rank} was killed by {signal.Signals(-code).name}", "the system may have run out of memory"
    if rank == 0:
        raise ResourceError(message, hint=f"{hint}; go on with the run: --resume")
    tell(f"{message}; {hint}")
    return ResourceError.exit_code
