"""An incremental source and its log in, the next batch out: what an earlier run has begun and not published, else what is new.

The order makes it exactly once. *Before* a batch is scored its entry is written, which fixes what it reads, its ID and its date. The
output then takes a batch of that ID once, whoever scores it and how often. Only when the output has it, the next entry is made.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakescore import delta_log, planning, source, storage, watermarks
from lakescore.catalog import quote_table, table_version
from lakescore.config import IncrementalConfig, OutputConfig, ScoreConfig
from lakescore.errors import ConfigError, InputError, OutputError
from lakescore.failures import translated
from lakescore.offsets import Entry, OffsetLog, Window, open_log
from lakescore.schema import quoted
from lakescore.sinks import quarantine
from lakescore.version import __version__

log = logging.getLogger(__name__)

Open = Callable[[], SparkSession]
_MAX_PREFIX = 100  # of a batch ID's 128 characters


@dataclass(frozen=True)
class Taken:
    """One batch to score.

    Attributes:
        config: the run's, with the batch's ID and date.
        window: what it reads.
        is_left: whether another run has begun it, and there may be more behind it.
    """

    config: ScoreConfig
    window: Window
    is_left: bool


def take(config: ScoreConfig, spark: SparkSession | None, open_session: Open) -> Taken | None:
    """The next batch, written down; None where nothing is new.

    ``run.batch_id`` may be the ID of a batch that was made before: then it is exactly that one, which may have been deleted.

    Args:
        config: with ``source.incremental``.
        spark: the session; None: there is none yet.
        open_session: makes one, where only Spark can tell what is new or published.

    Raises:
        LakescoreError: what is new cannot be told, or the state is another job's.
    """
    state = _open(config)
    if (asked := state.named(str(config.run.batch_id))) is not None:
        _refuse_other_job(state, asked, config)
        return _taken(config, state, asked, is_left=False)
    while True:
        last = state.last()
        if last is not None:
            _refuse_other_job(state, last, config)
            if last.batch_id is not None and not _is_published(config, last, spark, open_session):
                _refuse_other_output(config, state, last, spark, open_session)
                return _taken(config, state, last, is_left=True)
            state.tidy(last)
        found = _next(config, state, last, spark, open_session)
        if found is None:
            return None
        window, has_rows = found
        entry = _entry(config, last, window, has_rows)
        if state.append(entry) and has_rows:
            return _taken(config, state, entry, is_left=False)
        # Another run was faster, and its entry is the next; or there was nothing to score in what is new.


def preview(config: ScoreConfig, spark: SparkSession | None, open_session: Open) -> tuple[ScoreConfig, Window | None]:
    """What ``take`` would give, without writing anything; where nothing is new, the newest batch again.

    Returns:
        The configuration and the window; None where there was never anything.
    """
    state = _open(config)
    asked = state.named(str(config.run.batch_id))
    last = asked or state.last()
    if last is not None:
        _refuse_other_job(state, last, config)
    if asked is not None:
        return _with_batch(config, asked), asked.window
    is_pending = last is not None and last.batch_id is not None and not _is_published(config, last, spark, open_session, mends=False)
    found = None if is_pending else _next(config, state, last, spark, open_session)
    if found is not None and found[1]:
        last = _entry(config, last, *found)
    elif not is_pending:
        log.warning("source: %s", nothing_new(last))
    if last is None:
        return config, None
    return _with_batch(config, last), last.window


def newest(config: ScoreConfig) -> Entry | None:
    """The newest entry; None where there is none yet."""
    return _open(config).last()


def nothing_new(entry: Entry | None) -> str:
    """One line that says so, and since when."""
    if entry is None:
        return "nothing to score yet"
    return f"nothing new since {entry.batch_id or 'the last batch'} ({entry.window})"


def _open(config: ScoreConfig) -> OffsetLog:
    given = _incremental(config)
    folder = given.state or f"{(config.output.path or '').rstrip('/')}_incremental"
    quarantine.refuse_overlap("source.incremental.state", OutputConfig(path=folder), config.output, config.source)
    return open_log(storage.absolute(folder))


def _incremental(config: ScoreConfig) -> IncrementalConfig:
    assert config.source.incremental is not None, "asked by the caller"
    return config.source.incremental


def _job(config: ScoreConfig) -> dict[str, Any]:
    """What must stay the same, or the log would speak of another source or output."""
    given, chosen = config.source, _incremental(config)
    found = {
        "source.incremental.by": chosen.by,
        "source.incremental.column": chosen.column,
        "source.path": [storage.absolute(path) for path in given.path] if given.path is not None else None,
        "source.table": given.table,
        "source.query": " ".join(given.query.split()) if given.query is not None else None,
        "output.path": storage.absolute(config.output.path) if config.output.path is not None else None,
        "output.table": config.output.table,
    }
    return {key: value for key, value in found.items() if value is not None}


def _refuse_other_job(state: OffsetLog, last: Entry, config: ScoreConfig) -> None:
    now = _job(config)
    for key in sorted({*last.job, *now}):
        if last.job.get(key) != now.get(key):
            raise ConfigError(
                f"{key}: got {now.get(key)}, and {state.folder} is the state of a job with {last.job.get(key)}; put that back, or begin "
                "again with another source.incremental.state"
            )


def _entry(config: ScoreConfig, last: Entry | None, window: Window, has_rows: bool) -> Entry:
    number = 0 if last is None else last.number + 1
    return Entry(
        number=number,
        batch_id=f"{str(config.run.batch_id)[:_MAX_PREFIX]}-{number:06d}-{uuid.uuid4().hex[:6]}" if has_rows else None,
        window=window,
        score_date=str(config.run.date),
        job=_job(config),
        written={"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "lakescore": __version__},
    )


def _with_batch(config: ScoreConfig, entry: Entry) -> ScoreConfig:
    batch = {"batch_id": entry.batch_id or config.run.batch_id, "date": date.fromisoformat(entry.score_date)}
    return config.model_copy(update={"run": config.run.model_copy(update=batch)})


def _taken(config: ScoreConfig, state: OffsetLog, entry: Entry, is_left: bool) -> Taken:
    log.info("source: %s/%06d.json, %s, batch %s", state.folder, entry.number, entry.window, entry.batch_id)
    return Taken(_with_batch(config, entry), replace(entry.window, scratch=state.reading(entry)), is_left)


def _is_published(config: ScoreConfig, entry: Entry, spark: SparkSession | None, open_session: Open, mends: bool = True) -> bool:
    sink = planning.output_sink(_with_batch(config, entry), run_id="")
    if mends:
        sink.recover(spark)
    found = sink.find(spark)
    return bool(sink.find(open_session()) if found is None else found)


def _next(
    config: ScoreConfig, state: OffsetLog, last: Entry | None, spark: SparkSession | None, open_session: Open
) -> tuple[Window, bool] | None:
    """What came after an entry, and whether there are rows to score in it; None where nothing did."""
    by, window = _incremental(config).by, None if last is None else last.window
    if by == "files":
        return _next_files(config, state, last)
    if by == "versions" and config.source.path is not None:
        return _next_versions(config, storage.absolute(config.source.path[0]), window)
    session = spark or open_session()
    if by == "versions":
        return _next_versions(config, storage.absolute(str(_detail(session, config)["location"])), window)
    return _next_changes(config, session, window) if by == "changes" else _next_values(config, session, window)


def _refuse_other_output(config: ScoreConfig, state: OffsetLog, pending: Entry, spark: SparkSession | None, open_session: Open) -> None:
    """An entry is written only when the batch before it is published: without that one, the output is not what it was."""
    before = state.before(pending)
    if before is not None and not _is_published(config, before, spark, open_session):
        raise OutputError(
            f"output: {config.output.path or config.output.table} has neither the batch {pending.batch_id} nor {before.batch_id}, which "
            f"was there before; put the output back, or score the earlier one again first (run.batch_id={before.batch_id}), or remove the "
            f"output and {state.folder}, to score everything again"
        )


# --- Delta versions


def _next_versions(config: ScoreConfig, location: str, last: Window | None) -> tuple[Window, bool] | None:
    table = delta_log.open_table(location)
    newest, start = table.version(), _incremental(config).start
    found = Window("versions", None, newest, location=location, table_id=str(table.metadata().id))
    if last is not None:
        _refuse_other_table(last, found)
        after = int(last.to or 0)
    elif start is None:
        return found, bool(table.file_uris())
    else:
        after = _first_version(start, lambda: {int(one["version"]): int(one["timestamp"]) for one in table.history()}, newest) - 1
    if newest <= after:
        return None
    # The version before the first one is none: everything after it is added.
    return replace(found, after=after), bool(delta_log.added(location, after, newest))


def _refuse_other_table(last: Window, found: Window) -> None:
    if last.table_id != found.table_id or int(found.to or 0) < int(last.to or 0):
        raise InputError(
            f"source.incremental: the Delta table {found.location} was made anew since the last batch (its version is {found.to}, and "
            f"batches have read up to {last.to}); begin again with another source.incremental.state"
        )


def _first_version(start: str, times: Callable[[], Mapping[int, int]], newest: int) -> int:
    """The version that ``start`` names, or the first one at or after that time (UTC); one behind the newest where there is none."""
    if start.isascii() and start.isdigit():
        if int(start) > newest + 1:
            log.warning("source.incremental.start: the newest version is %d, and nothing is read before %s is there", newest, start)
        return int(start)
    wanted, known = _millis(start), times()
    oldest = min(known, default=0)
    if oldest > 0 and known[oldest] >= wanted:
        raise InputError(
            f"source.incremental.start: {start} is before the oldest version that the table's log still tells of ({oldest}), so nobody can "
            f"tell what was added since; start with start={oldest}, or without, which reads all that is there"
        )
    return min((version for version, at in known.items() if at >= wanted), default=newest + 1)


def _millis(text: str) -> int:
    time = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    return int((time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)).timestamp() * 1000)


# --- Delta's change feed


def _next_changes(config: ScoreConfig, spark: SparkSession, last: Window | None) -> tuple[Window, bool] | None:
    name, detail = _table_name(config), _detail(spark, config)
    newest, start = table_version(spark, name), _incremental(config).start
    if str((detail["properties"] or {}).get("delta.enableChangeDataFeed", "")).lower() != "true":
        raise InputError(
            f"source.incremental.by: changes: {config.source.table or detail['location']} keeps no change feed; ALTER TABLE {name} SET "
            "TBLPROPERTIES (delta.enableChangeDataFeed = true), which holds for later versions"
        )
    found = Window("changes", None, newest, location=str(detail["location"]), table_id=str(detail["id"]))
    if last is not None:
        _refuse_other_table(last, found)
        after = int(last.to or 0)
    elif start is None:
        return found, True
    else:
        after = _first_version(start, lambda: _times(spark, name), int(newest or 0)) - 1
    if newest is None or newest <= after:
        return None
    found = replace(found, after=after)
    counts = source.count_changes(spark, config.source, found)
    log.info("source: the change feed has %s", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "no rows")
    return found, any(counts.get(kind) for kind in source.NEW_ROWS)


def _table_name(config: ScoreConfig) -> str:
    if config.source.table is not None:
        return quote_table("source.table", config.source.table)
    return f"delta.{quoted(storage.for_spark((config.source.path or ('',))[0]))}"


def _detail(spark: SparkSession, config: ScoreConfig) -> Mapping[str, Any]:
    where = config.source.table or (config.source.path or ("",))[0]
    with translated(f"source: {where} is no Delta table that can be asked for its versions", InputError):
        row = spark.sql(f"DESCRIBE DETAIL {_table_name(config)}").select("id", "location", "properties", "format").collect()[0]
    if row["format"] != "delta":
        raise InputError(f"source: {where} is a {row['format']} table, which has no versions; take source.incremental.by=column or files")
    return dict(row.asDict())


def _times(spark: SparkSession, name: str) -> dict[int, int]:
    rows = spark.sql(f"DESCRIBE HISTORY {name}").select("version", F.unix_millis("timestamp").alias("at")).collect()
    return {int(row["version"]): int(row["at"]) for row in rows}


# --- files


def _next_files(config: ScoreConfig, state: OffsetLog, last: Entry | None) -> tuple[Window, bool] | None:
    start = _incremental(config).start
    earliest = None if start is None else _millis(start)
    seen = state.files(last)
    there = {file.path: file for file in source.list_files(config.source) if earliest is None or file.modified_ms >= earliest}
    changed = [path for path, file in there.items() if path in seen and seen[path] != file]
    if changed:
        log.warning(
            "source: %d file(s) that were scored have changed since, and are not scored again: %s", len(changed), ", ".join(changed[:5])
        )
    new = tuple(file for path, file in there.items() if path not in seen)
    return (Window("files", files=new), True) if new else None


# --- a column


def _next_values(config: ScoreConfig, spark: SparkSession, last: Window | None) -> tuple[Window, bool] | None:
    given = _incremental(config)
    found = Window("column", after=None if last is None else last.to, start=given.start if last is None else None)
    df = source.read(spark, config.source, source.inspect(config.source), ()).df
    largest, nulls = watermarks.newest(df, str(given.column), found)
    if nulls:
        log.warning("source: %d row(s) have no %s, and are never scored", nulls, given.column)
    return None if largest is None else (replace(found, to=largest), True)
