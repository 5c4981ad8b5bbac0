"""Backfill: one batch for each date, in order; what is done is skipped, what fails is named with its date."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakescore import backfilling
from lakescore.cli import backfill_main

Streams = pytest.CaptureFixture[str]
DAYS = ["2026-01-30", "2026-01-31", "2026-02-01"]


@pytest.fixture
def conf(tmp_path: Path, store: str, linear_uri: str, diabetes: pd.DataFrame, spark: SparkSession) -> Path:
    """A job over a folder for each date, the second of which is missing."""
    for number, day in enumerate(DAYS):
        (tmp_path / "data" / day).mkdir(parents=True)
        diabetes[number * 100 : number * 100 + 100].to_parquet(tmp_path / "data" / day / "f.parquet")
    (tmp_path / "data" / DAYS[1]).rename(tmp_path / "late")
    file = tmp_path / "job.yaml"
    file.write_text(
        f"""
run: {{name: patients, date: 2020-01-01}}
model: {{uri: {linear_uri}}}
source: {{path: "{tmp_path}/data/${{run.date}}"}}
output: {{path: "{tmp_path}/out"}}
tracking: {{tracking_uri: "{store}"}}
""",
        encoding="utf-8",
    )
    return file


def _batches(folder: Path) -> dict[str, tuple[str, int]]:
    rows = DeltaTable(folder / "out").to_pandas().groupby("batch_id")["score_date"].agg(["first", "size"])
    return {str(name): (str(day), int(size)) for name, day, size in rows.itertuples()}


def test_it_stops_at_the_first_date_that_fails_and_goes_on_there(conf: Path, tmp_path: Path, capsys: Streams) -> None:
    command = ["--config", str(conf), "--from", DAYS[0], "--to", DAYS[2]]

    code = backfill_main(command)

    shown = capsys.readouterr()
    assert code == 4
    assert shown.err.splitlines()[-1] == (
        f"lakescore: 2026-01-31: source.path: {tmp_path}/data/2026-01-31 does not exist (looked for {tmp_path}/data/2026-01-31). Did you "
        "mean '2026-01-30'? To go on, run the same command again: dates that are done are skipped"
    )
    assert shown.out.splitlines()[0].split() == ["date", "outcome", "rows", "seconds", "batch"]
    assert [line.split()[1] for line in shown.out.splitlines()[1:]] == ["scored", "failed"]
    (tmp_path / "late").rename(tmp_path / "data" / DAYS[1])

    assert backfill_main(command) == 0

    outcomes = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert outcomes == ["skipped", "scored", "scored"]
    assert _batches(tmp_path) == {f"patients-{day}": (day, 100) for day in DAYS}


def test_it_keeps_going_where_it_is_told_to_and_ends_with_the_first_failure(conf: Path, tmp_path: Path, capsys: Streams) -> None:
    code = backfill_main(["--keep-going", "--config", str(conf), "--from", DAYS[0], "--to", DAYS[2], "run.batch_id=p/${run.date}"])
    assert (code, "run.batch_id: got 'p/2026-01-30'" in capsys.readouterr().err) == (2, True)

    code = backfill_main(["--keep-going", "--config", str(conf), "--from", DAYS[0], "--to", DAYS[2], "run.batch_id=${run.date}-p"])

    shown = capsys.readouterr()
    assert (code, shown.err.splitlines()[-1].startswith("lakescore: 2026-01-31: source.path: ")) == (4, True)
    assert [line.split()[1] for line in shown.out.splitlines()[1:]] == ["scored", "failed", "scored"]
    assert set(_batches(tmp_path)) == {"2026-01-30-p", "2026-02-01-p"}


def test_a_filter_by_date_divides_one_source(conf: Path, tmp_path: Path, spark: SparkSession) -> None:
    frame = pd.concat([pd.read_parquet(path).assign(day=day) for day, path in zip(DAYS, _folders(tmp_path), strict=True)])
    frame.to_parquet(tmp_path / "all.parquet")

    found = backfilling.backfill(
        [conf], [f"source.path={tmp_path}/all.parquet", "source.filter=day = '${run.date}'"], *map(dt.date.fromisoformat, DAYS[:2])
    )

    assert [(day.batch_id, day.result.rows_written) for day in found if day.result] == [
        ("patients-2026-01-30", 100),
        ("patients-2026-01-31", 100),
    ]


def _folders(folder: Path) -> list[Path]:
    return [folder / "data" / DAYS[0], folder / "late", folder / "data" / DAYS[2]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "backfill: give --from DATE and --to DATE, or --since DATE; see lakescore backfill --help"),
        (["--from", "2026-01-01"], "backfill: give --from DATE and --to DATE, or --since DATE; see lakescore backfill --help"),
        (["--since", "2026-01-01", "--to", "2026-01-02"], "backfill: give --from DATE and --to DATE, or --since DATE"),
        (["--from", "2026-01-02", "--to", "2026-01-01"], "--from: 2026-01-02 is after --to 2026-01-01"),
        (["--since", "20260101"], "argument --since: got '20260101'; expected a date like 2026-01-31; see lakescore backfill --help"),
        (["--since", "2026-01-01", "run.date=2026-01-01"], "run.date: is what a backfill sets, to one date after the other; leave it out"),
        (["--since", "2026-01-01", "source.path=a"], "source: is the same for each date, so that a backfill would score the same rows"),
        (
            ["--since", "2026-01-01", "source.path=a", "source.incremental.by=files"],
            "source.incremental: reads what is new, and a backfill",
        ),
    ],
)
def test_what_makes_no_backfill_is_refused(conf: Path, arguments: list[str], line: str, capsys: Streams) -> None:
    assert backfill_main(["--config", str(conf), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"lakescore: {line}")


def test_the_last_of_all_dates_is_one(conf: Path, tmp_path: Path, capsys: Streams) -> None:
    last = ["--from", "9999-12-31", "--to", "9999-12-31"]

    assert backfill_main(["--config", str(conf), *last, f"source.path={tmp_path}/nowhere/${{run.date}}"]) == 4
    assert "lakescore: 9999-12-31: source.path: " in capsys.readouterr().err


def test_since_goes_until_yesterday_in_the_runs_time_zone(conf: Path, capsys: Streams) -> None:
    now = dt.datetime.now(dt.timezone.utc)

    assert backfilling.yesterday("Pacific/Kiritimati") == (now + dt.timedelta(hours=14)).date() - dt.timedelta(days=1)
    assert backfill_main(["--config", str(conf), "--since", "2100-01-01"]) == 0
    assert capsys.readouterr().out == "no date from 2100-01-01 until yesterday; nothing to do\n"


def test_a_signal_ends_it_after_its_first_date_too(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "late").rename(tmp_path / "data" / DAYS[1])
    command = [sys.executable, "-m", "lakescore", "backfill", "--config", str(conf), "--from", DAYS[0], "--to", DAYS[2]]
    with open(tmp_path / "said", "w+", encoding="utf-8") as said:
        running = subprocess.Popen([*command, "spark.backend=embedded"], stdout=said, stderr=subprocess.STDOUT)
        until = time.monotonic() + 120
        while not (tmp_path / "out" / "_delta_log" / f"{0:020}.json").exists() and time.monotonic() < until:
            time.sleep(0.005)

        running.terminate()

        assert running.wait(60) == 128 + signal.SIGTERM
        said.seek(0)
        assert said.read().splitlines()[-1] == "lakescore: ended by SIGTERM; nothing more was published"
    assert set(_batches(tmp_path)) == {f"patients-{DAYS[0]}"}
