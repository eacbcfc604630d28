"""Choosing an implementation: an explicit request is obeyed or refused, never replaced."""

from __future__ import annotations

import pytest
import torch

from sptcore.ops.backend import choose_impl

CPU = torch.device("cpu")


def test_auto_on_a_cpu_is_the_reference(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_impl("op", "auto", CPU) == "reference"


def test_an_explicit_request_is_never_replaced(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_impl("op", "reference", CPU) == "reference"
    with pytest.raises(ValueError, match="the kernel of op cannot run"):
        choose_impl("op", "kernel", CPU)
    with pytest.raises(ValueError, match="heads too long"):
        choose_impl("op", "kernel", CPU, limit="heads too long")


def test_an_unknown_word_is_a_wrong_argument():
    with pytest.raises(ValueError, match="impl"):
        choose_impl("op", "triton", CPU)
