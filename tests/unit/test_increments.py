"""What is new since the last batch, without Spark: every row once, whatever is appended, killed or run beside it."""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import types as T

from lakescore import delta_log, increments, planning, source
from lakescore.compose import compose
from lakescore.config import ScoreConfig
from lakescore.errors import ConfigError, InputError, LakescoreError, OutputError
from lakescore.increments import Taken
from lakescore.sinks import FileSink
from lakescore.sinks.base import Layout
from lakescore.sinks.delta import DeltaSink
from lakescore.storage import Location

SCHEMA = T.StructType(
    [T.StructField("id", T.LongType()), T.StructField("batch_id", T.StringType()), T.StructField("score_date", T.DateType())]
)


def no_spark() -> NoReturn:
    raise AssertionError("nothing here needs Spark")


def job(folder: Path, by: str = "versions", day: str = "2026-01-31", **keys: Any) -> ScoreConfig:
    values: dict[str, Any] = {
        "run": {"name": "Churn, daily", "date": day},
        "model": {"uri": "models:/m/1"},
        "source": {"path": str(folder / "source"), "incremental": {"by": by, **keys}},
        "output": {"path": str(folder / "out")},
    }
    return compose(values=values)


def take(config: ScoreConfig) -> Taken | None:
    return increments.take(config, None, no_spark)


def ids_of(taken: Taken) -> list[int]:
    """The rows of a batch, from the files that workers would read."""
    found = source.inspect(taken.config.source, window=taken.window).parquet
    assert found is not None
    return [one for file in found.files for one in pq.ParquetFile(file.path).read(["id"])["id"].to_pylist()]


def publish(taken: Taken) -> None:
    for _ in steps_of(taken):
        pass


def steps_of(taken: Taken) -> Iterator[str]:
    """Copy a batch's rows into the output, as scoring would."""
    run, batch = taken.config.run, str(taken.config.run.batch_id)
    sink = planning.output_sink(taken.config, run_id=uuid.uuid4().hex)
    assert isinstance(sink, FileSink)
    ids = ids_of(taken)
    columns = {"id": pa.array(ids, pa.int64()), "batch_id": [batch] * len(ids), "score_date": [run.date] * len(ids)}

    def write(layout: Layout) -> Collection[str]:
        Path(layout.folder).mkdir(parents=True)
        table = pa.table({name: values for name, values in columns.items() if name not in layout.partition})
        pq.write_table(table, Path(layout.folder, "part-0.parquet"))
        return {"part-0.parquet"}

    try:
        if isinstance(sink, DeltaSink):  # which learns here how it is to be written
            sink.check(None, SCHEMA)
        staged = sink.stage_files(SCHEMA, write)
        yield "staged"
        sink.publish(None, staged)
    except OutputError:
        assert sink.find(None), "only a run that was faster may be in the way"


def run_of(config: ScoreConfig) -> Iterator[str]:
    """A run as `score` makes it, step by step."""
    while (taken := take(config)) is not None:
        yield "taken"
        if not planning.output_sink(taken.config, "").find(None):
            yield from steps_of(taken)
        yield "published"
        if not taken.is_left:
            return


def output_ids(folder: Path, format_: str = "delta") -> list[int]:
    """What a reader of the output sees."""
    if format_ == "delta":
        there = (folder / "out" / "_delta_log").exists()
        return sorted(DeltaTable(folder / "out").to_pyarrow_table()["id"].to_pylist()) if there else []
    files = (folder / "out").glob("score_date=*/batch_id=*/*.parquet")
    return sorted(one for file in files for one in pq.ParquetFile(file).read(["id"])["id"].to_pylist())


def append(folder: Path, *ids: int) -> None:
    write_deltalake(folder / "source", pa.table({"id": pa.array(ids, pa.int64())}), mode="append")


def clean_log(folder: Path, version: int) -> None:
    """Remove a commit behind a checkpoint, as a writer does when it is old enough."""
    DeltaTable(folder / "source").create_checkpoint()
    (folder / "source" / "_delta_log" / f"{version:020d}.json").unlink()


def add_file(folder: Path, name: str, *ids: int) -> Path:
    (folder / "source").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": pa.array(ids, pa.int64())}), folder / "source" / name)
    return folder / "source" / name


# --- the property


ACTIONS = st.lists(
    st.sampled_from(["append", "append", "optimize", "start", "step 0", "step 0", "step 1", "step 1", "kill 0", "kill 1"]), max_size=24
)


@pytest.mark.parametrize(("by", "format_"), [("versions", "delta"), ("files", "delta"), ("files", "parquet")])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS)
def test_each_row_is_in_the_output_once_after_any_appends_runs_and_crashes(by: str, format_: str, actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, numbers, days = Path(name), itertools.count(), itertools.count(1)
        runs: list[Iterator[str]] = []
        total = 0

        def add() -> None:
            nonlocal total
            ids = range(total, total + 2)
            total += 2
            if by == "versions":
                append(folder, *ids)
            else:
                add_file(folder, f"{next(numbers)}.parquet", *ids)

        def begin() -> Iterator[str]:
            # Each run is on another day, which must not matter to a batch that an earlier one has begun.
            config = job(folder, by, day=str(dt.date(2026, 1, 1) + dt.timedelta(days=next(days))))
            output = config.output.model_copy(update={"format": format_})
            return run_of(config.model_copy(update={"output": output}))

        add()
        for action in [*actions, "last"]:
            what, _, which = action.partition(" ")
            if action == "append":
                add()
            elif action == "optimize" and by == "versions":
                DeltaTable(folder / "source").optimize.compact()
            elif action == "start" and len(runs) < 2:
                runs.append(begin())
            elif action == "last":
                for _ in begin():
                    pass
            elif which and int(which) < len(runs) and (what == "kill" or next(runs[int(which)], None) is None):
                runs.pop(int(which))
            seen = output_ids(folder, format_)
            assert seen == sorted(set(seen)), "no reader ever sees a row twice"

        assert output_ids(folder, format_) == list(range(total))
        assert next(begin(), None) is None


# --- batches


def test_the_first_batch_is_everything_and_the_next_ones_what_came_since(tmp_path: Path) -> None:
    append(tmp_path, 1, 2)
    append(tmp_path, 3)
    first = take(job(tmp_path))
    assert first is not None
    found = [ids_of(first)]
    publish(first)
    append(tmp_path, 4)
    append(tmp_path, 5)
    second = take(job(tmp_path))
    assert second is not None
    found.append(ids_of(second))
    publish(second)

    assert [sorted(ids) for ids in found] == [[1, 2, 3], [4, 5]]
    assert (str(first.window), str(second.window)) == ("all rows at version 1", "rows added by the versions 2 to 3")
    assert take(job(tmp_path)) is None


def test_batch_ids_are_the_runs_name_a_number_and_what_makes_them_the_entrys_own(tmp_path: Path) -> None:
    append(tmp_path, 1)
    other = take(job(tmp_path, state=str(tmp_path / "other")))
    first = take(job(tmp_path))
    (tmp_path / "out_incremental" / "000000.json").unlink()
    again = take(job(tmp_path))

    found = [str(taken.config.run.batch_id) for taken in (other, first, again) if taken is not None]
    assert all(name.startswith("Churn-daily-000000-") for name in found)
    # Another state's batch must not pass for this one's, or its rows would be skipped.
    assert len(set(found)) == 3


def test_an_output_that_was_removed_is_not_taken_for_one_that_lacks_a_batch(tmp_path: Path) -> None:
    for one in (1, 2):
        append(tmp_path, one)
        taken = take(job(tmp_path))
        assert taken is not None
        publish(taken)
    shutil.rmtree(tmp_path / "out")

    with pytest.raises(OutputError, match=r"output: .*/out has neither the batch Churn-daily-000001-\w+ nor Churn-daily-000000-\w+, which"):
        take(job(tmp_path))


@pytest.mark.parametrize("gone", [(1,), (1, 2)])
def test_batches_that_were_deleted_are_made_anew_by_their_ids(tmp_path: Path, gone: tuple[int, ...]) -> None:
    made = []
    for one in (1, 2, 3):
        append(tmp_path, one)
        taken = take(job(tmp_path, day=f"2026-01-0{one}"))
        assert taken is not None
        publish(taken)
        made.append(taken.config.run)
    for number in gone:
        planning.output_sink(job(tmp_path).model_copy(update={"run": made[number]}), "").delete(no_spark)
    assert output_ids(tmp_path) == [one for one in (1, 2, 3) if one - 1 not in gone]
    if len(gone) > 1:
        with pytest.raises(OutputError, match=rf"score the earlier one again first \(run\.batch_id={made[1].batch_id}\), or remove the"):
            take(job(tmp_path))

    for number in gone:
        config = job(tmp_path, day="2026-02-01")
        named = config.model_copy(update={"run": config.run.model_copy(update={"batch_id": made[number].batch_id})})
        assert increments.preview(named, None, no_spark)[0].run == made[number]
        again = take(named)
        assert again is not None
        assert (again.config.run, again.is_left) == (made[number], False)
        publish(again)

    assert output_ids(tmp_path) == [1, 2, 3]
    assert take(job(tmp_path)) is None


def test_a_batch_that_is_not_published_is_first_again_with_its_rows_and_its_date(tmp_path: Path) -> None:
    append(tmp_path, 1)
    begun = take(job(tmp_path, day="2026-01-31"))
    append(tmp_path, 2)

    again = take(job(tmp_path, day="2026-02-01"))

    assert begun is not None
    assert again is not None
    assert ids_of(again) == [1]
    assert again.is_left
    assert again.config.run == begun.config.run


def test_an_optimized_table_has_nothing_new_and_added_rows_are_found_behind_it(tmp_path: Path) -> None:
    append(tmp_path, 1)
    first = take(job(tmp_path))
    assert first is not None
    publish(first)
    append(tmp_path, 2)
    append(tmp_path, 3)
    DeltaTable(tmp_path / "source").optimize.compact()

    second = take(job(tmp_path))
    assert second is not None
    assert sorted(ids_of(second)) == [2, 3]
    publish(second)
    append(tmp_path, 4)
    DeltaTable(tmp_path / "source").optimize.compact()
    third = take(job(tmp_path))
    assert third is not None
    assert ids_of(third) == [4]
    publish(third)
    DeltaTable(tmp_path / "source").optimize.compact()
    assert take(job(tmp_path)) is None


def test_versions_without_rows_move_on_so_that_their_log_may_be_cleaned_up(tmp_path: Path) -> None:
    append(tmp_path, 1)
    append(tmp_path, 2)
    first = take(job(tmp_path))
    assert first is not None
    publish(first)
    DeltaTable(tmp_path / "source").optimize.compact()
    assert take(job(tmp_path)) is None
    append(tmp_path, 3)
    clean_log(tmp_path, 2)

    second = take(job(tmp_path))

    assert second is not None
    assert ids_of(second) == [3]


def test_partition_values_have_the_tables_types(tmp_path: Path) -> None:
    rows = {"id": pa.array([1, 2, 3], pa.int64()), "day": [dt.date(2026, 1, 31), None, dt.date(2026, 1, 31)], "n": pa.array([7, 8, None])}
    write_deltalake(tmp_path / "source", pa.table(rows).slice(0, 0), partition_by=["day", "n"])
    write_deltalake(tmp_path / "source", pa.table(rows), mode="append")

    taken = take(job(tmp_path, start="1"))

    assert taken is not None
    found = source.inspect(taken.config.source, window=taken.window).parquet
    assert found is not None
    assert sorted((file.values for file in found.files), key=str) == sorted(
        [(dt.date(2026, 1, 31), 7), (None, 8), (dt.date(2026, 1, 31), None)], key=str
    )


@pytest.mark.parametrize(
    ("start", "ids"), [("0", [1, 2, 3]), ("1", [2, 3]), ("2", [3]), ("3", None), ("2100-01-01", None), ("2020-01-01", [1, 2, 3])]
)
def test_versions_begin_where_start_says(tmp_path: Path, start: str, ids: list[int] | None) -> None:
    for one in (1, 2, 3):
        append(tmp_path, one)

    taken = take(job(tmp_path, start=start))

    assert (None if taken is None else ids_of(taken)) == ids
    if ids is None:
        append(tmp_path, 4)
        later = take(job(tmp_path, start="3"))
        assert later is not None
        assert ids_of(later) == [4]


def test_files_begin_where_start_says(tmp_path: Path) -> None:
    old, _ = add_file(tmp_path, "old.parquet", 1), add_file(tmp_path, "new.parquet", 2)
    os.utime(old, (1_000_000_000, 1_000_000_000))

    taken = take(job(tmp_path, "files", start="2020-01-01"))

    assert taken is not None
    assert ids_of(taken) == [2]


def test_a_file_that_changed_after_it_was_scored_is_warned_of_and_not_scored_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_file(tmp_path, "a.parquet", 1)
    first = take(job(tmp_path, "files"))
    assert first is not None
    publish(first)
    add_file(tmp_path, "a.parquet", 1, 2, 3)
    add_file(tmp_path, "b.parquet", 4)

    with caplog.at_level(logging.WARNING, "lakescore"):
        second = take(job(tmp_path, "files"))

    assert second is not None
    assert ids_of(second) == [4]
    assert caplog.messages == [
        f"source: 1 file(s) that were scored have changed since, and are not scored again: {tmp_path}/source/a.parquet"
    ]


def test_a_growing_glob_finds_new_folders_and_nothing_is_nothing_new(tmp_path: Path) -> None:
    config = job(tmp_path, "files")
    config = config.model_copy(
        update={"source": config.source.model_copy(update={"path": (str(tmp_path / "source" / "*" / "*.parquet"),)})}
    )
    assert take(config) is None
    found = []
    for day in ("a", "b"):
        (tmp_path / "source" / day).mkdir(parents=True)
        add_file(tmp_path, f"{day}/1.parquet", ord(day))
        taken = take(config)
        assert taken is not None
        found.append(ids_of(taken))
        publish(taken)

    assert found == [[97], [98]]


def test_a_preview_writes_nothing_and_shows_what_the_run_takes(tmp_path: Path) -> None:
    append(tmp_path, 1)
    before = sorted(os.listdir(tmp_path))

    config, window = increments.preview(job(tmp_path), None, no_spark)

    assert sorted(os.listdir(tmp_path)) == before
    assert str(window) == "all rows at version 0"
    assert str(config.run.batch_id).startswith("Churn-daily-")
    taken = take(job(tmp_path))
    assert taken is not None
    publish(taken)
    append(tmp_path, 2)
    assert str(increments.preview(job(tmp_path), None, no_spark)[1]) == "rows added by the versions 1 to 1"


# --- what is refused


def _delete(folder: Path) -> None:
    DeltaTable(folder / "source").delete("id = 1")


def _overwrite(folder: Path) -> None:
    write_deltalake(folder / "source", pa.table({"id": pa.array([9], pa.int64())}), mode="overwrite")


def _made_anew(folder: Path) -> None:
    shutil.rmtree(folder / "source")
    for one in range(5):
        append(folder, one)


def _log_cleaned(folder: Path) -> None:
    append(folder, 2)
    append(folder, 3)
    clean_log(folder, 1)


def test_a_log_that_cannot_be_read_now_is_not_called_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, 1)

    def refuses(_: Location) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Location, "read_text", refuses)
    with pytest.raises(InputError, match=r"version 0 of .* cannot be read: .*Permission denied; nothing is lost, run it again"):
        delta_log.commits(str(tmp_path / "source"), 0, 0)


def test_a_start_before_all_that_the_log_tells_of_is_refused(tmp_path: Path) -> None:
    for one in (1, 2, 3):
        append(tmp_path, one)
    for version in (0, 1):
        clean_log(tmp_path, version)

    with pytest.raises(
        InputError, match=r"source\.incremental\.start: 2020-01-01 is before the oldest version .* \(\d\), so nobody can tell"
    ):
        take(job(tmp_path, start="2020-01-01"))


def _corrupt_state(folder: Path) -> None:
    (folder / "out_incremental" / "000000.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        (
            _delete,
            InputError,
            "source.incremental.by: versions: version 1 of {source} (DELETE) removes or changes rows, and what is new cannot be told by "
            "its files; take by: changes (it needs delta.enableChangeDataFeed), or go on behind it with start=2; either with another "
            "source.incremental.state",
        ),
        (_overwrite, InputError, "source.incremental.by: versions: version 1 of {source} (WRITE) removes or changes rows"),
        (_made_anew, InputError, "source.incremental: the Delta table {source} was made anew since the last batch (its version is 4"),
        (_log_cleaned, InputError, "source.incremental: version 1 of {source} is not in its log any more (delta.logRetentionDuration)"),
        (_corrupt_state, InputError, "source.incremental.state: {source}/../out_incremental/000000.json is no entry"),
    ],
)
def test_what_makes_new_rows_unknowable_is_refused(
    tmp_path: Path, change: Callable[[Path], None], error: type[LakescoreError], line: str
) -> None:
    append(tmp_path, 1)
    first = take(job(tmp_path))
    assert first is not None
    publish(first)
    change(tmp_path)

    with pytest.raises(error) as caught:
        take(job(tmp_path))

    assert str(caught.value).startswith(line.format(source=tmp_path / "source").replace("/source/..", ""))


def test_a_file_that_is_gone_before_its_batch_is_scored_is_named(tmp_path: Path) -> None:
    file = add_file(tmp_path, "a.parquet", 1)
    add_file(tmp_path, "b.parquet", 2)
    assert take(job(tmp_path, "files")) is not None
    file.unlink()
    again = take(job(tmp_path, "files"))
    assert again is not None

    with pytest.raises(
        InputError, match=r"a\.parquet is gone, which this batch is to read \(1 of its 2 files are\); put it back, or remove"
    ):
        ids_of(again)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"by": "files"},
            "source.incremental.by: got files, and {state} is the state of a job with versions; put that back, or begin again",
        ),
        ({"source": "other"}, "source.path: got ['{folder}/other'], and {state} is the state of a job with ['{folder}/source']; put that"),
        ({"output": "other"}, "output.path: got {folder}/other, and {state} is the state of a job with {folder}/out; put that back"),
    ],
)
def test_a_state_is_not_used_for_another_job(tmp_path: Path, changed: dict[str, str], line: str) -> None:
    append(tmp_path, 1)
    state = str(tmp_path / "state")
    assert take(job(tmp_path, state=state)) is not None
    config = job(tmp_path, changed.get("by", "versions"), state=state)
    if "source" in changed:
        config = config.model_copy(update={"source": config.source.model_copy(update={"path": (str(tmp_path / "other"),)})})
    if "output" in changed:
        config = config.model_copy(update={"output": config.output.model_copy(update={"path": str(tmp_path / "other")})})

    with pytest.raises(ConfigError) as caught:
        take(config)

    assert str(caught.value).startswith(line.format(state=state, folder=tmp_path))


@pytest.mark.parametrize("state", ["source/state", "out/state"])
def test_a_state_inside_what_is_read_or_written_is_refused(tmp_path: Path, state: str) -> None:
    with pytest.raises(ConfigError, match=r"source\.incremental\.state: .* overlaps (source|output)\.path"):
        take(job(tmp_path, state=str(tmp_path / state)))


@pytest.mark.parametrize(
    ("by", "line"),
    [
        ("versions", "source.path: {source} is no Delta table (there is no _delta_log in it); take source.incremental.by=files"),
        ("files", "source.path: {source} does not exist (looked for {source})."),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, by: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        take(job(tmp_path, by))

    assert str(caught.value) == line.format(source=tmp_path / "source")


def test_a_delta_table_has_versions_and_no_files(tmp_path: Path) -> None:
    append(tmp_path, 1)

    with pytest.raises(InputError, match="is a Delta table, whose files are no rows; take versions or changes"):
        take(job(tmp_path, "files"))


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"source": {"limit": 5}}, "source: limit and incremental exclude each other: what a batch reads is what is new"),
        ({"source": {"version": 5}}, "source: version and incremental exclude each other: what a batch reads is what is new"),
        ({"source": {"timestamp": "2026-01-31"}}, "source: timestamp and incremental exclude each other"),
        ({"source": {"path": None, "rows": [[1]]}}, "source: incremental.by: versions needs source.path or source.table; found rows"),
        (
            {"source": {"path": None, "query": "SELECT 1"}},
            "source: incremental.by: versions needs source.path or source.table; found query",
        ),
        ({"source": {"path": ["a", "b"]}}, "source: incremental.by: versions needs one Delta table; found 2 paths"),
        ({"source": {"format": "csv"}}, "source: incremental.by: versions needs a Delta table; got format csv"),
        (
            {"source": {"path": None, "table": "t", "incremental": {"by": "files"}}},
            "source: incremental.by: files needs source.path; found",
        ),
        ({"source": {"format": "delta", "incremental": {"by": "files"}}}, "source: incremental.by: files is not for Delta tables"),
        ({"source": {"incremental": {"by": "column"}}}, "source.incremental: column is the watermark of by: column, and required there"),
        ({"source": {"incremental": {"column": "a"}}}, "source.incremental: column is the watermark of by: column, and required there"),
        ({"source": {"incremental": {"start": "soon"}}}, "source.incremental: start must be a version, or a time like 2026-01-31"),
        ({"source": {"incremental": {"by": "files", "start": "5"}}}, "source.incremental: start must be a time like 2026-01-31"),
        (
            {"source": {"incremental": {"by": "version"}}},
            "source.incremental.by: got 'version' (text); expected one of versions, changes, files",
        ),
        ({"run": {"on_rerun": "fail"}}, "run.on_rerun: fail is not for source.incremental, which scores nothing twice; leave it at skip"),
        ({"run": {"on_rerun": "replace"}}, "run.on_rerun: replace is not for source.incremental, which scores nothing twice"),
        ({"output": {"format": "jsonl"}}, "output.format: jsonl holds one batch at most; source.incremental needs delta or parquet"),
        ({"output": {"format": "summary_only"}}, "output.format: summary_only holds one batch at most; source.incremental needs delta"),
        ({"output": {"path": None, "table": "t"}}, "source.incremental.state is required with output.table: a folder for what is"),
        ({"scoring": {"allow_reuse": True}}, "scoring.allow_reuse is not for source.incremental, which scores nothing twice"),
        (
            {"output": {"path": "out/${run.date}"}},
            "output.path: with source.incremental it must be the same each day, and ${run.date} is in it",
        ),
        ({"source": {"filter": "day = '${run.date}'"}}, "source.filter: with source.incremental it must be the same each day"),
        ({"source": {"path": "in/${run.date}"}}, "source.path: with source.incremental it must be the same each day"),
    ],
)
def test_what_makes_no_sense_with_it_is_refused(sections: dict[str, dict[str, Any]], line: str) -> None:
    values: dict[str, Any] = {"model": {"uri": "m"}, "source": {"path": "a", "incremental": {"by": "versions"}}, "output": {"path": "o"}}
    for name, section in sections.items():
        merged = {**values.get(name, {}), **section}
        if "incremental" in section:
            merged["incremental"] = {"by": "versions", **section["incremental"]}
        values[name] = merged

    with pytest.raises(ConfigError) as caught:
        compose(values=values)

    assert line in str(caught.value)
