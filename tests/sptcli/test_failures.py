"""From an exception to what a person reads: faults of the machine that name their cure."""

from __future__ import annotations

import errno
import os

import pytest

from sptcli.failures import failure_of
from sptcli.session import Session


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_names_the_limit(number: int) -> None:
    failure = failure_of(OSError(number, os.strerror(number)), Session())
    assert failure.code == 4
    assert "ulimit -n" in str(failure.hint)


def test_another_fault_of_a_file_names_the_file() -> None:
    failure = failure_of(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"), Session())
    assert (failure.code, failure.where, failure.hint) == (4, "/x", None)
