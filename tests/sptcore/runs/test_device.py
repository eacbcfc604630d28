from __future__ import annotations

import pytest
import torch

from sptcore.errors import EnvironmentFault, UsageError
from sptcore.runs.device import pick_device


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert pick_device("auto").type == kind


def test_a_device_that_is_absent_or_unheard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(EnvironmentFault, match="cuda:1"):
        pick_device("cuda:1")
    with pytest.raises(UsageError, match="no device 'gpu'"):
        pick_device("gpu")
