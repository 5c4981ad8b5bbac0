"""Where the time went, and the one thing that would help."""

from __future__ import annotations

import subprocess
import sys

from lakescore import timing

MB = 1 << 20
PLAIN = {"load": 1.0, "read": 4.0, "predict": 3.0, "write": 4.0}


def test_stages_and_workers_are_told() -> None:
    assert timing.breakdown({"model": 0.14, "score": 2.0}, {}) == "model 0.1 s, score 2.0 s"
    assert timing.breakdown({"score": 2.0}, {"load": 1.0}) == "score 2.0 s; all workers together: load 1.0 s"


def test_nothing_is_advised_where_nothing_is_off() -> None:
    assert timing.advice(PLAIN, 8, 700 * MB, 32, 2) is None
    assert timing.advice({}, None, None, None, 2) is None


def test_tiny_files_few_parts_and_slow_loads_are_told() -> None:
    assert "5,000 files of 20 KB" in str(timing.advice(PLAIN, 5000, 5000 * 20 * 1024, 5000, 2))
    assert "into 1 part(s), and 2" in str(timing.advice(PLAIN, 1, 700 * MB, 1, 2))
    assert "loading the model took 30.0 of the workers' 41.0 s" in str(timing.advice({**PLAIN, "load": 30.0}, 8, 700 * MB, 32, 2))


def test_the_start_is_that_of_the_process() -> None:
    code = "import time; time.sleep(0.5); from lakescore import timing; print(timing.since_start())"
    told = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.5 < told < 30
