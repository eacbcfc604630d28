"""`spt doctor`: versions, devices, folders and self-tests, each failure with its cure."""

from __future__ import annotations

from typing import Annotated

import typer

from sptcli.console import pairs, table
from sptcli.session import Session
from sptcore.errors import IntegrityError

EXAMPLES = ("spt doctor", "spt doctor --strict --json", "spt doctor --gpu-test")


def command(
    ctx: typer.Context,
    strict: Annotated[bool, typer.Option("--strict", help="exit 5 when a check fails")] = False,
    gpu_test: Annotated[
        bool, typer.Option("--gpu-test", help="run our operations on a GPU; without one it fails")
    ] = False,
) -> None:
    """Look at this machine: versions, the pairing of torch and torchvision, devices, the MAC counter, folders, data.

    Every library is tried in a process of its own, so a broken one is reported with its cure. A note is worth
    knowing and needs no action; data sets that are not found are notes, since any path may be given instead.
    """
    from sptcore.doctor import diagnose

    session = Session.of(ctx)
    diagnosis = diagnose(gpu_test=gpu_test, progress=session.progress)
    rows = [(check.state, check.name, check.message, check.cure or "") for check in diagnosis.checks]
    document = {
        "machine": diagnosis.machine,
        "versions": diagnosis.versions,
        "checks": diagnosis.checks,
        "failed": [check.name for check in diagnosis.failures],
    }
    facts = {**diagnosis.machine, **diagnosis.versions}
    session.show(document, pairs(facts), table(["", "check", "found", "cure"], rows))
    if diagnosis.failures and strict:
        names = [check.name for check in diagnosis.failures]
        raise IntegrityError(f"{len(names)} check{'s' * (len(names) > 1)} failed: {', '.join(names)}")
