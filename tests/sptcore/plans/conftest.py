"""Walks of plans write hundreds of small files: here they need not reach the disk to be read again."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="package")
def _without_fsync():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield
