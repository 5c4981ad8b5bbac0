"""What of the benchmark could be wrong without anyone seeing it: equality, medians and ratios, and what is measured."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import cases, checking, contenders, data, main, measuring, report

TOOK = measuring.Measured(wall_seconds=10.0, cpu_seconds=15.0, peak_bytes=10**9, memory="PSS", returncode=0, timed_out=False)
CASE = cases.Case("main", rows=1000, columns=20, model="linear", cores=None, contenders=("plain", "limit"))


def _run(contender: str, wall: float, case: cases.Case = CASE, peak: int = 10**9) -> cases.Run:
    return cases.Run(case, contender, repeat=1, measured=replace(TOOK, wall_seconds=wall, peak_bytes=peak))


def test_equal_is_bit_for_bit() -> None:
    reference = np.array([1.0, np.nan, np.inf, 0.1])

    assert checking.compare(reference.copy(), reference, 0.0) == checking.Comparison(0, 0.0, 0.0, equal=True)


@pytest.mark.parametrize(
    ("found", "tolerance", "rows", "equal"),
    [
        ([1.0, np.nextafter(2.0, 3), -4.0], 0.0, 1, False),
        ([1.0, np.nextafter(2.0, 3), -4.0], 1e-14, 1, True),
        ([1.0, 2.001, -4.0], 1e-14, 1, False),
        ([1.0, np.nan, -4.0], 1e-6, 1, False),
        ([2.0, 1.0, -4.0], 1e-6, 2, False),
    ],
)
def test_a_prediction_that_differs_is_counted_and_only_rounding_is_tolerated(
    found: list[float], tolerance: float, rows: int, equal: bool
) -> None:
    comparison = checking.compare(np.array(found), np.array([1.0, 2.0, -4.0]), tolerance)

    assert (comparison.rows, comparison.equal) == (rows, equal)


def test_the_difference_is_told_absolute_and_as_a_part_of_the_largest_prediction() -> None:
    comparison = checking.compare(np.array([1.0, 2.5, -4.0]), np.array([1.0, 2.0, -4.0]), 0.0)

    assert comparison == checking.Comparison(rows=1, largest=0.5, relative=0.125, equal=False)


def test_minus_zero_is_not_zero_bit_for_bit() -> None:
    assert not checking.compare(np.array([-0.0]), np.array([0.0]), 0.0).equal


def _write(folder: Path, ids: Sequence[int], prediction: pa.Array, dropped: str = "") -> Path:
    """An output of so many rows, in the given order."""
    strings = {f"s{i}": ["a"] * len(ids) for i in range(len(data.STRINGS))}
    table = pa.table({"id": ids, "f0": [0.5] * len(ids), **strings, "prediction": prediction})
    target = folder / "score_date=2026-01-31"
    target.mkdir()
    pq.write_table(table.drop_columns([dropped] if dropped else []), target / "part-0.parquet")
    return folder


def test_predictions_come_in_the_order_of_the_ids(tmp_path: Path) -> None:
    output = _write(tmp_path, [2, 0, 1], pa.array([0.2, 0.0, 0.1]))

    np.testing.assert_array_equal(checking.predictions(output, rows=3, columns=1), [0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("ids", "prediction", "dropped", "message"),
    [
        ([0, 1, 1], pa.array([0.0, 1.0, 2.0]), "", "3 rows with 2 different ids, not those of the 3 rows of the source"),
        ([0, 1], pa.array([0.0, 1.0]), "", "2 rows with 2 different ids"),
        ([0, 1, 2], pa.array([0.0, 1.0, 2.0], pa.float32()), "", "the prediction is float, not double"),
        ([0, 1, 2], pa.array([0.0, None, 2.0]), "", "1 predictions are null"),
        ([0, 1, 2], pa.array([0.0, 1.0, 2.0]), "s5", "columns are missing: s5"),
    ],
)
def test_an_output_that_is_not_every_row_once_is_refused(
    tmp_path: Path, ids: list[int], prediction: pa.Array, dropped: str, message: str
) -> None:
    output = _write(tmp_path, ids, prediction, dropped)

    with pytest.raises(checking.OutputError, match=message):
        checking.predictions(output, rows=3, columns=1)


def test_a_summary_has_medians_and_ratios_within_the_case() -> None:
    elsewhere = replace(CASE, rows=10)
    runs = [_run("plain", wall, peak=3 * 10**9) for wall in (30.0, 90.0, 40.0)] + [_run("limit", wall) for wall in (8.0, 7.0, 10.0)]
    runs += [_run("plain", 1.0, elsewhere), replace(_run("limit", 0.1), failure="exit code 1")]

    plain, limit, other = report.summaries(runs)

    assert (plain.wall_seconds, plain.least_seconds, plain.most_seconds, plain.runs) == (40.0, 30.0, 90.0, 3)
    assert (limit.wall_seconds, limit.runs, limit.rows_per_second) == (8.0, 3, 125.0)
    assert (limit.plain_by_this, limit.plain_memory_by_this, plain.this_by_limit) == (5.0, 3.0, 5.0)
    assert (other.case, other.plain_by_this, other.this_by_limit) == (elsewhere, 1.0, None)


@pytest.mark.parametrize(
    ("part", "second", "walls", "line"),
    [
        ("cores", {"cores": 2}, (30.0, 20.0), "speed on 2 cores by speed on 1: 1.50"),
        ("rows", {"rows": 16_000}, (10.0, 80.0), "16,000 rows by 1,000: time per row 0.50, peak memory 1.00"),
    ],
)
def test_growth_is_told_from_one_case_to_the_next(part: str, second: dict[str, Any], walls: tuple[float, float], line: str) -> None:
    first = replace(CASE, part=part, cores=1)
    runs = [_run("limit", walls[0], first), _run("limit", walls[1], replace(first, **second))]

    (told,) = report.growth(runs)

    assert told.endswith(line)


def _measure(tmp_path: Path, code: str, timeout: float = 60.0) -> measuring.Measured:
    environment = contenders.environment(tmp_path)
    return measuring.measure([sys.executable, "-c", code], tmp_path / "log", folder=tmp_path, environment=environment, timeout=timeout)


def test_memory_of_a_process_that_the_command_starts_is_seen(tmp_path: Path) -> None:
    child = "import time; held = bytearray(b'x') * 200_000_000; time.sleep(1)"

    measured = _measure(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")

    assert 200e6 < measured.peak_bytes < 300e6
    assert measured.wall_seconds > 1


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this kernel has no PSS")
def test_memory_that_processes_share_counts_once(tmp_path: Path) -> None:
    code = "import os, time; held = bytearray(b'x') * 200_000_000; pid = os.fork(); time.sleep(1); pid and os.wait()"

    measured = _measure(tmp_path, code)

    assert 200e6 < measured.peak_bytes < 300e6


@pytest.mark.parametrize("ignored", [False, True])
def test_cpu_time_of_children_counts_whether_or_not_their_parent_waits_for_them(tmp_path: Path, ignored: bool) -> None:
    """PySpark's daemon ignores SIGCHLD: the kernel then forgets what its workers took."""
    child = "import time\nwhile time.process_time() < 1.5: pass"
    ignore = "signal.signal(signal.SIGCHLD, signal.SIG_IGN); " if ignored else ""

    measured = _measure(tmp_path, f"import signal, subprocess, sys; {ignore}subprocess.Popen([sys.executable, '-c', {child!r}]).wait()")

    assert 1.1 < measured.cpu_seconds < 2.5


def test_what_the_command_leaves_behind_is_counted_but_not_waited_for(tmp_path: Path) -> None:
    child = "import time; time.sleep(2)\nwhile time.process_time() < 1: pass"

    measured = _measure(tmp_path, f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)")

    assert measured.wall_seconds < 2
    assert 0.7 <= measured.cpu_seconds < 2  # sampled: its last moments may be missed


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(50)'])"

    measured = _measure(tmp_path, child, timeout=1.0)

    assert measured.timed_out
    assert measured.wall_seconds < 10


def test_the_command_ends_with_the_benchmark(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(50)"]
    code = f"""
import sys; sys.path.insert(0, {str(Path(measuring.__file__).parents[1])!r})
from pathlib import Path
from benchmarks import measuring
measuring.measure({command!r}, Path("log"), folder=Path(), environment={{}}, timeout=60)
"""
    benchmark = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    _wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")

    benchmark.kill()
    benchmark.wait()

    _wait(lambda: not Path("/proc", (tmp_path / "pid").read_text()).exists())


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_command_that_is_not_there_fails_as_in_a_shell(tmp_path: Path) -> None:
    command = [str(tmp_path / "nothing")]

    measured = measuring.measure(command, tmp_path / "log", folder=tmp_path, environment={}, timeout=60)

    assert measured.returncode == 127
    assert "No such file or directory" in (tmp_path / "log").read_text(encoding="utf-8")


def test_a_contender_that_fails_is_told_with_its_last_lines_and_the_others_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(contenders.COMMANDS, "plain", lambda work: [sys.executable, "-c", "raise SystemExit('no such thing')"])

    code = main.main(["--rows", "100", "--models", "linear", "--contenders", "plain", "limit", "--repeats", "2", "--folder", str(tmp_path)])

    out, err = capsys.readouterr()
    assert code == 1
    assert "plain failed: exit code 1; the last lines of its output:\n    no such thing" in out
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith("main linear")] == [
        "main linear 100 rows, plain, run 1",
        "main linear 100 rows, limit, run 1",
        "main linear 100 rows, limit, run 2",
    ]
    assert "the reference" in out
    assert (tmp_path / "bench.json").exists()
    assert not (tmp_path / "output").exists()
