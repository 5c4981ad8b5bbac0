"""An output in, what attempts at batches left in it out: staging, journals, what was replaced, and files that nothing names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from lakescore import storage
from lakescore.config import OutputConfig
from lakescore.errors import OutputError
from lakescore.failures import translated
from lakescore.schema import BATCH
from lakescore.sinks import delta, journal, parquet, rows, table
from lakescore.sinks.base import Batch, batch_prefix
from lakescore.storage import Extent, Location

STAGING, JOURNAL, REPLACED, ORPHAN = "stale staging", "unfinished publication", "replaced leftover", "orphaned file"
_ATTEMPT = re.compile(r"(?P<prefix>.+-[0-9a-f]{10}-)[0-9a-f]{12}(?:\.tmp)?")
# What Delta's writers call their files; others are somebody's own.
_DATA_FILE = re.compile(r"(?:.*/)?part-[^/]+\.parquet", re.DOTALL)
_BATCH_FOLDER = re.compile(rf"{BATCH}=([^/]+)")


@dataclass(frozen=True)
class Leftover:
    """One of them.

    Attributes:
        kind: STAGING, JOURNAL, REPLACED or ORPHAN.
        place: a path or, for a staged table of the catalog, its name.
        extent: what is in it, and when it last changed.
        prefix: what the names of all attempts at its batch begin with (``batch_prefix``); empty where it does not tell.
        batch_id: the batch, where it can be told.
        mend: removes it; a journal: finishes what it lists. Raises OSError or OutputError.
    """

    kind: str
    place: str
    extent: Extent
    prefix: str
    batch_id: str | None
    mend: Callable[[], None]

    def is_of(self, batch_id: str) -> bool:
        """Whether an attempt at this batch left it; the names of tables have fewer characters to tell by."""
        return bool(self.prefix) and table.staging(self.prefix) == table.staging(batch_prefix(batch_id))


def leftovers(output: OutputConfig, spark: Callable[[], SparkSession]) -> list[Leftover]:
    """Look for what attempts left, however young; whether a run still needs it is the caller's to know.

    Args:
        output: where; nothing need be there.
        spark: opens a session, for a table of the catalog.

    Raises:
        OutputError: its log is damaged, or gone and its files are there.
    """
    if output.table is not None:
        return _of_catalog(output, spark())
    root = Location.of(storage.absolute(output.path or ""))
    if root is None or not root.is_dir():
        return []
    if output.is_row_file:
        return list(_of_row_files(root))
    return list(_of_delta(root) if output.format == "delta" else _of_parquet(root, output))


def _of_delta(root: Location) -> Iterator[Leftover]:
    for half in delta.half_commits(root):
        yield Leftover(STAGING, half.path, Extent(1, half.size, half.modified_ms), "", None, Location(root.fs, half.path).remove)
    # The files first: one that is committed in between is then named by the log.
    files = [file for file in root.files() if file.path.endswith(".parquet")]
    attempts = (root / delta.STAGING).children()
    named = named_in_log(root)
    unknown = files if (root / "_delta_log").is_dir() else [file for file in files if f"/{delta.STAGING}/" not in file.path]
    if unknown and not named:
        # The log that named them may be lost, or they are no Delta table's: rows that nothing else holds.
        raise OutputError(
            f"output.path: {root.path} has Parquet files ({unknown[0].path}) and no Delta log that names any; put the log back, or give "
            "the output.format that it has"
        )
    committed = {path.split("/")[1] for path in named if path.startswith(f"{delta.STAGING}/")}
    stale = [attempt for attempt in attempts if attempt.name not in committed]
    for attempt in stale:
        yield _attempt(STAGING, attempt, root / delta.STAGING, root)
    inside = tuple(f"{attempt.path}/" for attempt in stale)
    for file in files:
        name = file.path.removeprefix(f"{root.path.rstrip('/')}/")
        if name not in named and not file.path.startswith(inside) and _DATA_FILE.fullmatch(name) and not _is_of_table_inside(root, name):
            place = Location(root.fs, file.path)
            yield Leftover(ORPHAN, file.path, Extent(1, file.size, file.modified_ms), "", None, place.remove)


def _is_of_table_inside(root: Location, name: str) -> bool:
    """Whether a folder between a table and a file is a table itself."""
    place = root
    for part in name.split("/")[:-1]:
        place = place / part
        if (place / "_delta_log").is_dir():
            return True
    return False


def named_in_log(root: Location) -> set[str]:
    """All paths that a Delta table's log names, added or removed, as far back as it goes; as they are written, and decoded."""
    log, found = root / "_delta_log", set[str]()
    folders = [log, *(log / name for name in ("_sidecars", "_staged_commits", "_commits"))]
    for file in (file for folder in folders for file in folder.files()):
        try:
            found |= _named_in(Location(log.fs, file.path))
        except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise OutputError(
                f"output.path: {file.path} of the Delta log is damaged ({type(error).__name__}: {error}); put it back"
            ) from error
    return found | {unquote(path) for path in found}


def _named_in(file: Location) -> set[str]:
    """The paths that one file of the log names."""
    found = set[str]()
    if file.path.endswith(".json"):
        for line in file.read_text().splitlines():
            entry = json.loads(line) if line.strip() else {}
            found |= {entry[kind]["path"] for kind in ("add", "remove") if kind in entry}
    elif file.path.endswith(".parquet"):
        with file.fs.open_input_file(file.path) as stream:
            entries = pq.ParquetFile(stream).read(columns=["add.path", "remove.path"])
        values = (value for name in entries.column_names for value in entries.column(name).to_pylist())
        found |= {value["path"] for value in values if value is not None and value["path"] is not None}
    return found


def _of_parquet(root: Location, output: OutputConfig) -> Iterator[Leftover]:
    hidden, place = root / journal.HIDDEN, root / journal.JOURNAL
    journals = [child for child in place.children() if child.name.endswith(".json") and not child.name.startswith(".")]
    for found in journals:
        batch_id = _batch_of(found)

        def finish(batch_id: str | None = batch_id, path: str = found.path) -> None:
            if batch_id is None:
                raise OutputError(f"output.path: {path} names no batch; look at it")
            parquet.ParquetSink(output, Batch(batch_id, "", date.min, "skip")).recover(None)

        yield Leftover(JOURNAL, found.path, found.extent(), _prefix_of(found), batch_id, finish)
    in_journals = tuple(map(_prefix_of, journals))
    for kind, folder in ((STAGING, root / journal.STAGING), (REPLACED, root / journal.REPLACED)):
        for attempt in folder.children():
            if not attempt.name.startswith(in_journals):
                yield _attempt(kind, attempt, folder, hidden, root)
    for child in place.children():
        if child not in journals:  # half-written
            yield _attempt(STAGING, child, place, hidden, root)


def _prefix_of(found: Location) -> str:
    return f"{found.name.removesuffix('.json')}-"


def _batch_of(found: Location) -> str | None:
    try:
        batch_id = json.loads(found.read_text())["batch_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return batch_id if isinstance(batch_id, str) and _prefix_of(found) == batch_prefix(batch_id) else None


def _of_row_files(folder: Location) -> Iterator[Leftover]:
    for attempt in (folder / rows.HIDDEN).children():
        yield _attempt(STAGING, attempt, folder / rows.HIDDEN)
    for file in rows.recorded_files(folder):
        for record in rows.stray_records(file):
            yield Leftover(ORPHAN, record.path, record.extent(), "", None, record.remove)


def _attempt(kind: str, place: Location, *parents: Location) -> Leftover:
    def remove() -> None:
        place.remove()
        for parent in parents:
            parent.remove_if_empty()

    found = _ATTEMPT.fullmatch(place.name)
    prefix = found["prefix"] if found else ""
    batch_id = next((batch for child in _below(place) if (batch := _batch_in(child, prefix))), None)
    return Leftover(kind, place.path, place.extent(), prefix, batch_id, remove)


def _below(place: Location) -> list[str]:
    """The folders of an attempt, two steps deep: ``score_date=D/batch_id=B``."""
    days = [child for child in place.children() if child.is_dir()] if place.is_dir() else []
    return [inner.path for day in days for inner in day.children()]


def _batch_in(text: str, prefix: str = "") -> str | None:
    """The batch of the first folder that is named after one and, where a prefix is known, fits it."""
    found = _BATCH_FOLDER.search(text)
    batch_id = unquote(found[1]) if found else None
    return batch_id if batch_id is not None and batch_prefix(batch_id).startswith(prefix) else None


def _of_catalog(output: OutputConfig, spark: SparkSession) -> list[Leftover]:
    with translated(f"output.table: {output.table} cannot be read", OutputError):
        return [
            Leftover(STAGING, name, Extent(0, 0, modified_ms), prefix, None, partial(table.drop, spark, name))
            for name, prefix, modified_ms in table.TableSink(output, Batch("", "", date.min, "skip")).staged(spark)
        ]
