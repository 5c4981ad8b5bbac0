"""A configuration and a range of dates in, a batch for each date out: the same job once for every ``run.date``, in one process.

Dates whose batch is there are skipped, so the same command goes on where it stopped.
"""

from __future__ import annotations

import logging
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from pyspark.sql import SparkSession

from lakescore import pipeline
from lakescore.compose import compose
from lakescore.config import ScoreConfig
from lakescore.errors import ConfigError, LakescoreError
from lakescore.redact import redact
from lakescore.result import ScoreResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Day:
    """What came of one date: a result, or the error of a run that failed."""

    date: date
    batch_id: str
    result: ScoreResult | None
    error: LakescoreError | None


def backfill(
    files: Sequence[str | Path],
    overrides: Sequence[str],
    first: date,
    last: date | None = None,
    *,
    keep_going: bool = False,
    spark: SparkSession | None = None,
) -> list[Day]:
    """Score each date's rows as the batch of that date, in order: ``run.date`` is the date, and the batch ``PREFIX-DATE``.

    Args:
        files: YAML files, as for ``compose``.
        overrides: ``section.key=value``.
        first, last: the dates, both included; None: until yesterday in ``run.timezone``, because today's rows are still coming.
        keep_going: whether the dates after one that failed are scored too.
        spark: the session to use.

    Returns:
        What came of each date; unless it keeps going, a failed one is the last.

    Raises:
        ConfigError: the configuration is wrong, or reads the same rows on each date.
    """

    def of(day: date) -> ScoreConfig:
        return compose(files, overrides, day=day)

    if any(override.partition("=")[0].strip() == "run.date" for override in overrides):
        raise ConfigError("run.date: is what a backfill sets, to one date after the other; leave it out")
    config = of(first)
    _refuse_same_rows(config, of(first + timedelta(days=1 if first < date.max else -1)))
    last = last or yesterday(config.run.timezone)
    found: list[Day] = []
    count = (last - first).days + 1
    for number in range(count):
        day = first + timedelta(days=number)
        config = of(day)
        log.info("backfill: %s, %d of %d dates", day, number + 1, count)
        found.append(_score(config, day, spark))
        if found[-1].error is not None and not keep_going:
            break
    return found


def yesterday(zone: str) -> date:
    """Yesterday's date in a time zone."""
    return datetime.now(timezone.utc).astimezone(zoneinfo.ZoneInfo(zone)).date() - timedelta(days=1)


def _score(config: ScoreConfig, day: date, spark: SparkSession | None) -> Day:
    batch = str(config.run.batch_id)
    try:
        return Day(day, batch, pipeline.score(config, spark=spark), None)
    except LakescoreError as error:
        return Day(day, batch, None, error)
    except Exception as error:
        log.debug("backfill: %s failed", day, exc_info=error)
        return Day(day, batch, None, LakescoreError(f"{type(error).__name__}: {error}"))


def _refuse_same_rows(one: ScoreConfig, next_day: ScoreConfig) -> None:
    if one.source.incremental is not None:
        raise ConfigError("source.incremental: reads what is new, and a backfill what each date has; set source.incremental=null for it")
    if one.source == next_day.source:
        raise ConfigError(
            "source: is the same for each date, so that a backfill would score the same rows again and again; put ${run.date} into it, for "
            "example source.path='data/${run.date}' or source.filter=\"day = '${run.date}'\""
        )


def failure(days: Sequence[Day]) -> LakescoreError | None:
    """The first error as one line that names the date and says how to go on; None where there is none."""
    failed = [day for day in days if day.error is not None]
    if not failed:
        return None
    first = failed[0]
    assert first.error is not None, "just asked"
    what = f"{first.date}: {first.error}"
    others = f" ({len(failed)} dates failed, this one first)" if len(failed) > 1 else ""
    end = "" if what.endswith((".", "?")) else "."
    return type(first.error)(f"{what}{end}{others} To go on, run the same command again: dates that are done are skipped")


def describe(days: Sequence[Day]) -> str:
    """A table, a line for each date."""
    rows = [("date", "outcome", "rows", "seconds", "batch")]
    for day in days:
        done = day.result
        if done is None:
            rows.append((day.date.isoformat(), "failed", "", "", day.batch_id))
        else:
            is_new = done.outcome == "scored"
            amount = (f"{done.rows_written:,}", f"{done.total_seconds:.1f}") if is_new else ("", "")
            rows.append((day.date.isoformat(), done.outcome, *amount, done.batch_id))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip() for row in rows
    )
    return redact("\n".join(lines))
