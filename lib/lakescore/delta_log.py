"""A Delta table's log in, what its commits added out: the files with new rows, as the table's own protocol defines them.

A commit adds rows where it adds files with ``dataChange``; one that also removes such files has deleted, updated or overwritten rows.
OPTIMIZE writes files anew without ``dataChange``: the rows in them are old.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from deltalake import DeltaTable

from lakescore import object_store
from lakescore.errors import InputError
from lakescore.storage import Location, absolute, closed_to_delta, delta_options, scheme_of

# What decides how a data file is read; all else a reader of a few of them need not know.
_FEATURES_OF_FILES = {"columnMapping", "timestampNtz", "typeWidening", "typeWidening-preview", "variantType", "variantType-preview"}
_OF_A_FILE = ("partitionValues", "size", "modificationTime", "stats")
_MAPPING = ("delta.columnMapping.mode", "delta.columnMapping.maxColumnId")


@dataclass(frozen=True)
class Commit:
    """What one version did.

    Attributes:
        added: the ``add`` actions of files with new rows, as they stand in the log.
        takes_away: whether it removes or changes rows that were there.
    """

    version: int
    operation: str
    added: tuple[dict[str, Any], ...]
    takes_away: bool


def open_table(location: str, version: int | None = None) -> DeltaTable:
    """A table at a version; its newest by default.

    Raises:
        InputError: the log cannot be read by this process.
    """
    odd, place = closed_to_delta(location), Location.of(location)
    if place is not None and not (place / "_delta_log").is_dir():
        raise InputError(f"source.path: {location} is no Delta table (there is no _delta_log in it); take source.incremental.by=files")
    try:
        if odd is not None:
            raise ValueError(f"its path has {odd!r} in it")
        return DeltaTable(location, version=version, storage_options=delta_options(location))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"source.incremental.by: versions: the log of the Delta table {location} cannot be read: {reason}; take by: changes"
        ) from error


def commits(location: str, first: int, last: int) -> list[Commit]:
    """What the versions ``first`` to ``last`` did.

    Raises:
        InputError: one of them is not in the log any more.
    """
    folder = Location.of(location)
    if folder is None:
        raise InputError(
            f"source.incremental.by: versions: {location} is on a file system that this process cannot reach; take by: changes"
        )
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(lambda version: _commit(folder, location, version), range(first, last + 1)))


def _commit(folder: Location, location: str, version: int) -> Commit:
    try:
        lines = (folder / "_delta_log" / f"{version:020d}.json").read_text().splitlines()
    except FileNotFoundError as error:
        raise InputError(
            f"source.incremental: version {version} of {location} is not in its log any more (delta.logRetentionDuration), so nobody can "
            "tell what was added since the last batch; begin again with another source.incremental.state"
        ) from error
    except OSError as error:
        raise InputError(
            f"source.incremental: version {version} of {location} cannot be read: {object_store.line(error)}; nothing is lost, run it again"
        ) from error
    actions = [json.loads(line) for line in lines if line.strip()]
    added = tuple(one["add"] for one in actions if "add" in one and one["add"].get("dataChange", True))
    operation = next((str(one["commitInfo"].get("operation", "")) for one in actions if "commitInfo" in one), "")
    takes_away = any("remove" in one and one["remove"].get("dataChange", True) for one in actions)
    return Commit(version, operation, added, takes_away or any(one.get("deletionVector") for one in added))


def added(location: str, after: int, to: int) -> list[dict[str, Any]]:
    """The ``add`` actions of all files with rows that came after a version, up to another.

    Raises:
        InputError: a version between has taken rows away or changed them, so that what is new is more than files.
    """
    found = commits(location, after + 1, to)
    odd = next((commit for commit in found if commit.takes_away), None)
    if odd is not None:
        raise InputError(
            f"source.incremental.by: versions: version {odd.version} of {location} ({odd.operation or 'of another writer'}) removes or "
            "changes rows, and what is new cannot be told by its files; take by: changes (it needs delta.enableChangeDataFeed), or go on "
            f"behind it with start={odd.version + 1}; either with another source.incremental.state"
        )
    return [add for commit in found for add in commit.added]


def view_of(table: DeltaTable, location: str, adds: Sequence[dict[str, Any]]) -> str:
    """The first commit of a table that has some files of another one, where they are, as a shallow clone has them.

    Delta's own reader then gives their rows: partition values by the table's types, renamed columns, columns that came later as null.

    Args:
        table: as it is at the last of the versions.
        location: its folder.
        adds: the files' ``add`` actions.
    """
    protocol, metadata = table.protocol(), table.metadata()
    features = sorted(_FEATURES_OF_FILES.intersection(protocol.reader_features or ()))
    is_mapped = metadata.configuration.get(_MAPPING[0], "none") != "none"
    versions = {"minReaderVersion": 2 if is_mapped else 1, "minWriterVersion": 5 if is_mapped else 2}
    if features:
        versions = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}  # type: ignore[dict-item]
    described = {
        "id": str(metadata.id),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": table.schema().to_json(),
        "partitionColumns": list(metadata.partition_columns),
        "configuration": {key: metadata.configuration[key] for key in _MAPPING if key in metadata.configuration},
        "createdTime": 0,
    }
    root = _uri(location)
    files = (
        {"add": {key: add[key] for key in _OF_A_FILE if key in add} | {"path": _whole(root, add["path"]), "dataChange": True}}
        for add in adds
    )
    return "".join(_lines([{"protocol": versions}, {"metaData": described}, *files]))


def _lines(actions: Iterable[dict[str, Any]]) -> Iterable[str]:
    return (json.dumps(action, ensure_ascii=False) + "\n" for action in actions)


def _uri(location: str) -> str:
    if scheme_of(location) == "file":
        return Path(absolute(location)).as_uri()
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc}{quote(parts.path)}"


def _whole(root: str, path: str) -> str:
    """The path of a log's file with its folder; both are URIs already."""
    return path if path.startswith("/") or urlsplit(path).scheme else f"{root.rstrip('/')}/{path}"
