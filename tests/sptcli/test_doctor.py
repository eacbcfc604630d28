"""`spt doctor`: a table for people, one document for machines, exit 5 when asked and a check fails."""

from __future__ import annotations

import pytest

from sptcore.doctor import Check, Diagnosis
from tests.support.cli import spt


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (Check("torch", "ok", "2"), Check("opencv", "fail", "no libGL [x]", "apt-get install libgl1"))
    diagnosis = Diagnosis({"cpus": 2}, {"torch": "2", "triton": None}, checks)
    monkeypatch.setattr("sptcore.doctor.diagnose", lambda **settings: diagnosis)


def test_the_report() -> None:
    ran = spt("doctor")
    assert ran.code == 0
    assert "no libGL [x]" in ran.out
    assert "apt-get install libgl1" in ran.out


def test_strict_keeps_the_report_and_exits_5() -> None:
    ran = spt("doctor", "--strict", "--json")
    assert ran.code == 5
    assert ran.document["failed"] == ["opencv"]
    assert ran.document["checks"][1]["cure"] == "apt-get install libgl1"
    assert ran.document["error"]["message"] == "1 check failed: opencv"
    assert spt("doctor", "--json").document["ok"] is True
