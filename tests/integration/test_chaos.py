"""A small part of `make chaos`, always the same: a few faults at random moments, after which nothing is lost, doubled or left behind."""

from __future__ import annotations

import pytest

from chaos import main


def test_a_few_faults_leave_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    kinds = ["kill-driver", "kill-worker", "same-batch"]

    code = main.main(["--faults", "3", "--seed", "1", "--at-once", "2", "--backends", "embedded", "--only", *kinds])

    said = capfd.readouterr().out
    assert code == 0, said
    assert "3 faults injected" in said
