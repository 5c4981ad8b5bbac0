"""One batch out of an output: exactly that one, in one step, and the same batch may be published again."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from mlflow import MlflowClient
from pyspark.sql import types as T

from lakescore import delete_batch, doctor
from lakescore.config import OutputConfig
from lakescore.errors import OutputError
from lakescore.sinks import open_sink
from lakescore.sinks.base import Batch, FileSink
from lakescore.sinks.delta import DeltaSink, app_id, deletion_id

DAY = date(2026, 1, 31)
SCHEMA = T.StructType(
    [
        T.StructField(name, T.DoubleType() if name == "x" else T.DateType() if name == "score_date" else T.StringType())
        for name in ("x", "run_id", "batch_id", "score_date")
    ]
)
Publish = Callable[..., None]


def no_spark() -> NoReturn:
    raise AssertionError("no session is needed")


@pytest.fixture(params=["delta", "parquet"])
def output_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table"


@pytest.fixture
def publish(table: Path, output_format: str) -> Publish:
    """Publish a batch of so many rows."""

    def make(batch_id: str, rows: int = 3, run_id: str = "", on_rerun: str = "skip", day: date = DAY) -> None:
        _publish(table, output_format, batch_id, rows, run_id or f"run-of-{batch_id}", on_rerun, day)

    return make


def _publish(table: Path, output_format: str, batch_id: str, rows: int, run_id: str, on_rerun: str = "skip", day: date = DAY) -> None:
    sink = open_sink(OutputConfig(path=str(table), format=output_format), Batch(batch_id, run_id, day, on_rerun))
    assert isinstance(sink, FileSink)

    def write(layout: Any) -> set[str]:
        Path(layout.folder).mkdir(parents=True)
        columns = {"x": pa.array(range(rows), pa.float64()), "run_id": [run_id] * rows, "batch_id": [batch_id] * rows}
        kept = {name: values for name, values in columns.items() if name not in layout.partition}
        pq.write_table(pa.table(kept), Path(layout.folder, "part-0.parquet"))
        return {"part-0.parquet"}

    sink.recover(None)
    if not sink.find(None) or on_rerun == "replace":
        sink.publish(None, sink.stage_files(SCHEMA, write))


def _rows(table: Path, output_format: str) -> dict[str, int]:
    """Rows by batch, as a plain reader sees them."""
    if output_format == "delta":
        found = DeltaTable(table).to_pyarrow_table().column("batch_id").to_pylist()
        return {batch: found.count(batch) for batch in sorted(set(found))}
    files = [path for path in table.rglob("*.parquet") if "_lakescore" not in path.parts]
    return {path.parent.name.removeprefix("batch_id="): pq.read_metadata(path).num_rows for path in sorted(files)}


def _digests(table: Path) -> dict[str, str]:
    """The content of all data files."""
    files = [path for path in table.rglob("*.parquet") if "_delta_log" not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_exactly_the_batch_goes_and_the_others_keep_every_byte(publish: Publish, table: Path, output_format: str, store: str) -> None:
    publish("a")
    publish("c", day=date(2026, 2, 1))
    others = _digests(table)
    publish("b", 5)

    done = delete_batch(str(table), "b")

    assert (done.batch_id, done.rows, done.dates, done.location) == ("b", 5, ("2026-01-31",), str(table))
    assert _rows(table, output_format) == {"a": 3, "c": 3}
    assert {path: digest for path, digest in _digests(table).items() if path in others} == others


def test_a_run_that_mlflow_does_not_know_is_named(publish: Publish, table: Path, store: str, caplog: pytest.LogCaptureFixture) -> None:
    publish("a")

    delete_batch(str(table), "a")

    (warning,) = [one.getMessage() for one in caplog.records if one.name == "lakescore.deletion" and one.levelname == "WARNING"]
    assert re.fullmatch(r"tracking: sqlite:///.* does not know the run \S+, so it is not tagged lakescore\.deleted", warning)


def test_a_deleted_batch_is_published_again_exactly_once(publish: Publish, table: Path, output_format: str, store: str) -> None:
    publish("a")
    for rows in (4, 5):
        publish("b", rows)
        publish("b", 99)  # it is there: skipped
        assert _rows(table, output_format) == {"a": 3, "b": rows}
        delete_batch(str(table), "b")
        assert _rows(table, output_format) == {"a": 3}


def test_a_batch_without_rows_is_deleted_too(publish: Publish, table: Path, output_format: str, store: str) -> None:
    publish("a")
    publish("b", 0)

    done = delete_batch(str(table), "b")

    assert done.rows == 0
    publish("b", 2)
    assert _rows(table, output_format) == {"a": 3, "b": 2}


def test_a_batch_that_is_not_there_is_one_line_with_the_nearest(publish: Publish, table: Path, store: str) -> None:
    for name in ("2026-01-30", "2026-01-29", "other"):
        publish(name)

    with pytest.raises(OutputError) as error:
        delete_batch(str(table), "2026-01-31")

    assert str(error.value) == f"BATCH_ID: the batch '2026-01-31' is not in {table}. The nearest: 2026-01-30, 2026-01-29."


@pytest.mark.parametrize("odd", ["a' OR '1'='1", "../a", "", "a\nb"])
def test_what_no_batch_can_be_called_deletes_nothing(publish: Publish, table: Path, output_format: str, odd: str, store: str) -> None:
    publish("a")

    with pytest.raises(OutputError, match="is not in"):
        delete_batch(str(table), odd)

    assert _rows(table, output_format) == {"a": 3}


def test_a_dry_run_deletes_nothing(publish: Publish, table: Path, output_format: str, store: str) -> None:
    publish("a")
    before = _digests(table)

    found = delete_batch(str(table), "a", dry_run=True)

    assert (found.rows, found.version) == (3, None)
    assert _digests(table) == before
    assert _rows(table, output_format) == {"a": 3}


def test_a_batch_that_was_replayed_goes_after_its_replay(publish: Publish, table: Path, output_format: str, store: str) -> None:
    publish("a")
    publish("a.replay", 1)

    with pytest.raises(OutputError, match=r"were replayed as a\.replay, and would be there twice .* delete a\.replay first"):
        delete_batch(str(table), "a")

    delete_batch(str(table), "a.replay")
    delete_batch(str(table), "a")
    assert _rows(table, output_format) == {}


def test_the_runs_of_the_batch_are_tagged_and_no_others(publish: Publish, table: Path, output_format: str, store: str) -> None:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("lakescore").experiment_id
    ids = {}
    for batch_id in ("a", "b"):
        tags = {"lakescore.batch_id": batch_id, "lakescore.outcome": "scored"}
        run_id = client.create_run(experiment, tags=tags).info.run_id
        for key, value in {"output": str(table), "output.format": output_format, "batch_id": batch_id}.items():
            client.log_param(run_id, key, value)
        client.set_terminated(run_id, "FINISHED")
        publish(batch_id, run_id=run_id)
        ids[batch_id] = run_id

    done = delete_batch(str(table), "b")

    assert done.run_ids == (ids["b"],)
    assert client.get_run(ids["b"]).data.tags["lakescore.deleted"].endswith(f"from {table}")
    assert "lakescore.deleted" not in client.get_run(ids["a"]).data.tags


@pytest.mark.parametrize("turn", range(3))
def test_a_batch_is_appended_while_another_is_deleted(publish: Publish, table: Path, output_format: str, turn: int, store: str) -> None:
    publish("a")
    publish("b")
    barrier, failures = threading.Barrier(2), list[BaseException]()

    def at_once(work: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    sink = open_sink(OutputConfig(path=str(table), format=output_format), Batch("b", "", DAY, "replace"))
    threads = [threading.Thread(target=at_once, args=(work,)) for work in (lambda: sink.delete(no_spark), lambda: publish("c", 7))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert _rows(table, output_format) == {"a": 3, "c": 7}


class TestDelta:
    @pytest.fixture
    def output_format(self) -> str:
        return "delta"

    def test_the_commit_says_what_it_did_and_time_travel_still_shows_the_batch(self, publish: Publish, table: Path, store: str) -> None:
        publish("a")
        publish("b", 5)

        done = delete_batch(str(table), "b")

        latest = DeltaTable(table)
        said = json.loads(latest.history(1)[0]["userMetadata"])
        assert (done.version, latest.version()) == (2, 2)
        assert {key: said[key] for key in ("batch_id", "deleted")} == {"batch_id": "b", "deleted": True}
        assert latest.transaction_version(deletion_id("b")) == 2
        assert DeltaTable(table, version=1).to_pyarrow_table().num_rows == 8

    def test_time_travel_shows_it_also_when_it_is_there_again(self, publish: Publish, table: Path, store: str) -> None:
        publish("b", 5)
        delete_batch(str(table), "b")
        publish("b", 2)

        assert [DeltaTable(table, version=version).to_pyarrow_table().num_rows for version in range(3)] == [5, 0, 2]

    def test_a_batch_is_not_found_again_after_a_checkpoint(self, publish: Publish, table: Path, store: str) -> None:
        publish("a")
        delete_batch(str(table), "a")
        DeltaTable(table).create_checkpoint()
        for log in (table / "_delta_log").glob("*.json"):
            log.unlink()

        assert DeltaSink(OutputConfig(path=str(table)), Batch("a", "r", DAY, "skip")).find(None) is False

    def test_a_batch_that_restore_brings_back_is_there_and_can_be_deleted_again(self, publish: Publish, table: Path, store: str) -> None:
        publish("a")
        publish("b", 5)
        for rows in (2, 4):
            delete_batch(str(table), "b")
            DeltaTable(table).restore(1)
            publish("b", 9)  # it is there: skipped
            assert _rows(table, "delta") == {"a": 3, "b": 5}
            publish("b", rows, on_rerun="replace")
            assert _rows(table, "delta") == {"a": 3, "b": rows}

        delete_batch(str(table), "b")
        publish("b", 1)
        assert _rows(table, "delta") == {"a": 3, "b": 1}

    def test_a_table_that_forgets_transactions_has_each_batch_once(self, publish: Publish, table: Path, store: str) -> None:
        publish("a")
        DeltaTable(table).alter.set_table_properties({"delta.setTransactionRetentionDuration": "interval 0 seconds"})
        publish("b", 5)
        log = table / "_delta_log" / f"{2:020d}.json"  # as it is after Spark's checkpoint of a table that Spark wrote
        log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"txn"' not in line))
        assert DeltaTable(table).transaction_version(app_id("b")) is None

        publish("b", 9)

        assert _rows(table, "delta") == {"a": 3, "b": 5}

    def test_a_batch_whose_rows_were_removed_by_hand_is_deleted_and_comes_again(self, publish: Publish, table: Path, store: str) -> None:
        publish("a")
        publish("b")
        DeltaTable(table).delete("batch_id = 'b'")

        delete_batch(str(table), "b")

        publish("b", 2)
        assert _rows(table, "delta") == {"a": 3, "b": 2}

    def test_a_batch_that_is_replaced_at_the_same_time_stays(
        self, publish: Publish, table: Path, monkeypatch: pytest.MonkeyPatch, store: str
    ) -> None:
        publish("a")
        publish("b", 3)
        real = DeltaTable.create_write_transaction

        def late(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
            monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
            publish("b", 8, run_id="another", on_rerun="replace")
            real(self, *args, **kwargs)

        monkeypatch.setattr(DeltaTable, "create_write_transaction", late)
        with pytest.raises(OutputError) as error:
            delete_batch(str(table), "b")

        assert str(error.value) == (
            f"output.path: another process has replaced or deleted the batch b of {table} meanwhile; look what is there, and delete it "
            "again if it is still to go"
        )
        assert _rows(table, "delta") == {"a": 3, "b": 8}

    def test_of_two_deletions_at_once_one_says_that_it_came_second(
        self, publish: Publish, table: Path, monkeypatch: pytest.MonkeyPatch, store: str
    ) -> None:
        publish("b", 3)
        real = DeltaTable.create_write_transaction

        def late(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
            monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
            delete_batch(str(table), "b")
            real(self, *args, **kwargs)

        monkeypatch.setattr(DeltaTable, "create_write_transaction", late)
        with pytest.raises(OutputError, match="another process has replaced or deleted the batch b"):
            delete_batch(str(table), "b")
        publish("b", 2)

        assert _rows(table, "delta") == {"b": 2}

    def test_a_table_that_takes_appends_only_keeps_it(self, publish: Publish, table: Path, store: str) -> None:
        write_deltalake(table, pa.table({name: pa.array([], kind) for name, kind in _ARROW.items()}), partition_by=["score_date"])
        DeltaTable(table).alter.set_table_properties({"delta.appendOnly": "true"})
        publish("a")
        beside = Path(f"{table}_quarantine")
        _publish(beside, "delta", "a", 2, "run-of-a")

        with pytest.raises(OutputError, match=r"takes appends only .* so the batch a in it cannot be deleted"):
            delete_batch(str(table), "a", quarantined=True)

        assert _rows(table, "delta") == {"a": 3}
        assert _rows(beside, "delta") == {"a": 2}


_ARROW = {"x": pa.float64(), "run_id": pa.string(), "batch_id": pa.string(), "score_date": pa.date32()}


def test_an_interrupted_deletion_of_several_dates_is_finished_by_the_next_run(
    table: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    _publish(table, "parquet", "a", 3, "run")
    _publish(table, "parquet", "b", 3, "run")
    second = table / "score_date=2026-02-01" / "batch_id=b"
    second.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1.0], "run_id": ["run"]}), second / "part-0.parquet")
    from lakescore.storage import Location

    real, calls = Location.move_to, list[str]()

    def crash_at_the_second(self: Location, target: Location) -> None:
        calls.append(target.path)
        if len([path for path in calls if "score_date=" in path]) == 2:
            raise KeyboardInterrupt
        real(self, target)

    monkeypatch.setattr(Location, "move_to", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        delete_batch(str(table), "b")
    monkeypatch.setattr(Location, "move_to", real)

    sink = open_sink(OutputConfig(path=str(table), format="parquet"), Batch("b", "r", DAY, "skip"))
    sink.recover(None)

    assert sink.find(None) is False
    assert _rows(table, "parquet") == {"a": 3}
    assert not (table / "_lakescore").exists()


def test_a_delta_table_of_others_is_named_and_nothing_is_advised(table: Path, output_format: str) -> None:
    if output_format == "delta":
        columns = {name: ["x"] for name in ("batch_id", "run_id", "score_date")}
        write_deltalake(table, pa.table(columns))

        for look in (lambda: doctor(table), lambda: delete_batch(str(table), "x")):
            with pytest.raises(OutputError, match=f"^output.path: {table} is partitioned by none; Lakescore writes tables partitioned by"):
                look()
