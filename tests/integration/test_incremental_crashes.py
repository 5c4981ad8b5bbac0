"""Incremental runs as processes that are killed, or start together: no row is skipped, none is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from support.environment import without

SCORE = str(Path(sys.executable).parent / "lakescore")
WAIT = 240.0


class Job:
    """`lakescore score` over a Delta table that grows."""

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder = folder
        (folder / "job.yaml").write_text(settings, encoding="utf-8")

    def append(self, frame: pd.DataFrame) -> None:
        write_deltalake(self.folder / "source", pa.Table.from_pandas(frame, preserve_index=False), mode="append")

    def start(self) -> subprocess.Popen[str]:
        environment = without("PYSPARK", "SPARK")
        return subprocess.Popen(
            [SCORE, "score", "--config", "job.yaml"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self) -> str:
        """Run it to its end; returns what it printed."""
        return finished(self.start())

    def entries(self) -> int:
        return len(list((self.folder / "out_incremental").glob("0*.json")))

    def versions(self) -> int:
        return len(list((self.folder / "out" / "_delta_log").glob("0*.json")))

    def rows(self) -> pd.DataFrame:
        frame = DeltaTable(self.folder / "out").to_pandas()
        assert isinstance(frame, pd.DataFrame)
        return frame


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    return out


def killed_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """kill -9 the process and all that it started, in the moment that a condition holds."""
    end = time.monotonic() + WAIT
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def job(tmp_path: Path, store: str, linear_uri: str) -> Job:
    return Job(
        tmp_path,
        f"""
run: {{name: patients}}
model: {{uri: {linear_uri}}}
source: {{path: source, incremental: {{by: versions}}}}
output: {{path: out}}
tracking: {{tracking_uri: "{store}"}}
spark: {{backend: embedded, master: "local[2]"}}
""",
    )


@pytest.mark.long
def test_a_run_that_is_killed_before_its_batch_is_published_is_made_good_by_the_next(job: Job, diabetes: pd.DataFrame) -> None:
    job.append(diabetes[:100])
    killed_when(job.start(), lambda: job.entries() == 1)
    assert not (job.folder / "out").exists() or job.versions() == 0
    job.append(diabetes[100:])

    answer = job.run()

    rows = job.rows()
    assert sorted(rows["id"]) == diabetes["id"].tolist()
    assert rows.groupby("batch_id").size().tolist() == [100, 342]
    assert job.entries() == 2
    assert "patients-000001-" in answer
    assert job.run().startswith("nothing new since the batch patients-")


def test_a_run_that_is_killed_between_two_batches_neither_skips_nor_repeats(job: Job, diabetes: pd.DataFrame) -> None:
    job.append(diabetes[:100])
    killed_when(job.start(), lambda: job.entries() == 1)
    job.append(diabetes[100:200])
    killed_when(job.start(), lambda: job.versions() == 1)
    job.append(diabetes[200:])

    job.run()

    assert sorted(job.rows()["id"]) == diabetes["id"].tolist()


@pytest.mark.long
def test_of_two_runs_at_once_each_row_is_written_by_one(job: Job, diabetes: pd.DataFrame) -> None:
    for part in (diabetes[:300], diabetes[300:]):
        job.append(part)
        both = [job.start(), job.start()]
        for process in both:
            finished(process)

    rows = job.rows()
    assert sorted(rows["id"]) == diabetes["id"].tolist()
    assert rows.groupby("batch_id").size().sort_index().tolist() == [300, 142]
