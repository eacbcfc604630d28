"""Run `spt` in a test: in this process, or in a fresh interpreter."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class Ran:
    """What one command line left: exit code, stdout and stderr as text."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as the one JSON document of `--json`."""
        return json.loads(self.out)


class _Stream(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]


def spt(*arguments: object, env: Mapping[str, str] | None = None) -> Ran:
    """Run `spt ARGUMENTS` in this process through `sptcli.app.main`, exactly as the console script does."""
    from sptcli.app import main

    out, err = _Stream(), _Stream()
    with mock.patch.multiple(sys, stdout=out, stderr=err), mock.patch.dict(os.environ, env or {}):
        code = main([str(argument) for argument in arguments])
    return Ran(code, out.text(), err.text())


def spt_process(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """Run `python -m sptcli ARGUMENTS` in a fresh interpreter; `env` is laid over this process's environment."""
    command = [sys.executable, "-m", "sptcli", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True, timeout=600)
    return Ran(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
