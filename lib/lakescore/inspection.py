"""``config.source`` in, what its files say out, before Spark starts: whatever is missing, foreign, broken or would be left out is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from lakescore import datafiles, delta_files, file_checks, frames, readers, storage
from lakescore.catalog import quote_table
from lakescore.config import ROW_PER_FILE, SourceConfig
from lakescore.errors import ConfigError, InputError, did_you_mean, listing
from lakescore.parquet_files import OnlySparkError, ParquetFiles
from lakescore.readers import option

_PARQUET_MAGIC = b"PAR1"
_SUFFIXES = {
    ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".orc": "orc",
    ".avro": "avro", ".pq": "parquet", ".parq": "parquet",
}  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """What is known of the source before Spark starts.

    Attributes:
        format: the reader's name; None for tables, queries and rows.
        paths: absolute paths or globs, as configured.
        inputs: the same as Spark gets them: globs that are known are expanded, names with glob characters are escaped.
        tabs: whether the files' names say that tabs separate the values.
        files, size: how many files and bytes there are; None where only Spark can tell.
        rows: rows according to the files' footers; None where unknown.
        version: the version of a Delta table by path, pinned now.
        colons: whether the name of a local file has a colon.
        empty: local files of no bytes, which Spark leaves out, where each file is a row.
        parquet: Parquet files on this machine that workers may read by themselves; None where only Spark reads them right, for the reason
            ``only_spark``.
    """

    format: str | None = None
    paths: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    tabs: bool = False
    files: int | None = None
    size: int | None = None
    rows: int | None = None
    version: int | None = None
    colons: bool = False
    empty: tuple[storage.File, ...] = ()
    parquet: ParquetFiles | None = None
    only_spark: str = "the source is no Parquet file"


def inspect(config: SourceConfig, data: Any = None, tolerant: bool = False) -> Inspection:
    """Check what can be checked without Spark; of ``data``, given in Python, the rows are known.

    Args:
        config: the section ``source``.
        data: what the caller of ``score`` gave, where ``source.data`` is set.
        tolerant: whether files of which each is a row may be broken.

    Raises:
        InputError: a path does not exist, holds no file, or a file is broken, foreign or of another schema.
        ConfigError: a table's name is none, or the reader has no such option.
    """
    try:
        return _inspect(config, data, tolerant)
    except OSError as error:
        raise InputError(f"source.path: {listing(config.path or ())} cannot be read: {error}") from error


def _inspect(config: SourceConfig, data: Any, tolerant: bool) -> Inspection:
    if config.table is not None:
        quote_table("source.table", config.table)
    if config.path is None:
        return Inspection(rows=frames.count(data if config.rows is None else config.rows))
    paths = tuple(storage.absolute(path) for path in config.path)
    found: list[storage.Location] = []
    inputs: list[str] = []
    known = True
    for path, given in zip(paths, config.path, strict=True):
        if storage.scheme_of(path) in ("http", "https"):
            raise InputError(
                f"source.path: {given} is on a web server, whose files Spark cannot list; download it first (curl -O URL) and give the "
                "file, or in Python give the data: score(..., data=pandas.read_csv(URL))"
            )
        locations = storage.expand(path)
        if locations is None:
            known = False
            inputs.append(storage.for_spark(path))
            continue
        if not locations:
            raise InputError(_no_such_path(given, path))
        found += locations
        inputs += [storage.for_spark_reader(location.path) if location.is_local else path for location in locations]
    if any((location / "_delta_log").is_dir() for location in found) and config.format in (None, "delta"):
        return _inspect_delta(config, paths, found)
    files = [(location, file) for location in found for file in _files(location) if _is_chosen(file, config)] if known else []
    format_ = config.format or _format_of([file.path for _, file in files] or paths)
    if config.format is None:
        _refuse_unknown(files)
    readers.check_options(format_, config.options)
    for key in ("version", "timestamp"):
        if format_ != "delta" and getattr(config, key) is not None:
            raise ConfigError(f"source.{key}: needs a Delta table, and {listing(config.path)} is {format_}")
    tabs = all(_suffix(name) == ".tsv" for name in [file.path for _, file in files] or paths)
    if format_ == "delta":
        return _inspect_delta(config, paths, found)
    if not known:
        return Inspection(format_, paths, tuple(inputs), tabs)
    if format_ == "parquet":
        _refuse_delta(found)
    if not files:
        raise InputError(f"source.path: there is no file in {listing(config.path)}")
    _refuse_unread(files, config)
    found_files = [(location.fs, file) for location, file in files]
    if format_ in ROW_PER_FILE:
        checked = datafiles.Checked(file_checks.check(found_files, config, tolerant), only_spark=f"the source is {format_}")
    else:
        checked = datafiles.check(found_files, format_, config.options)
    parquet, only_spark = checked.parquet, checked.only_spark
    if parquet is not None and (reason := _why_spark(files)) is not None:
        parquet, only_spark = None, reason
    colons = any(location.is_local and ":" in PurePosixPath(file.path).name for location, file in files)
    empty = _empty(files) if format_ in ROW_PER_FILE else ()
    return Inspection(
        format=format_,
        paths=paths,
        inputs=tuple(inputs),
        tabs=tabs,
        files=len(files),
        size=sum(file.size for _, file in files),
        rows=checked.rows,
        colons=colons,
        empty=empty,
        parquet=parquet,
        only_spark=only_spark,
    )


def _files(location: storage.Location) -> list[storage.File]:
    """All files of a place; what cannot be listed would be left out."""
    try:
        return list(location.files(strict=True))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = "a file's name in it is no UTF-8" if isinstance(error, UnicodeError) else str(error).splitlines()[0]
        raise InputError(f"source.path: {location.path} cannot be listed: {reason}") from error


def _why_spark(files: Sequence[tuple[storage.Location, storage.File]]) -> str | None:
    """Why workers may not read the files by themselves; None where they may."""
    if not all(location.is_local for location, _ in files):
        return "the files are not on this machine"
    if any("=" in part for location, file in files for part in file.path.removeprefix(location.path).split("/")[:-1]):
        return "the source has partition folders"
    return None


def _is_chosen(file: storage.File, config: SourceConfig) -> bool:
    pattern = option(config.options, "pathGlobFilter")
    return pattern is None or any(fnmatch(PurePosixPath(file.path).name, one) for one in _alternatives(pattern))


def _alternatives(pattern: str) -> list[str]:
    """Hadoop's ``*.{png,jpg}`` as patterns that Python knows."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [one for choice in found.group(1).split(",") for one in _alternatives(f"{before}{choice}{after}")]


def _suffix(name: str) -> str | None:
    """The ending that tells the format, behind which a compression's may stand."""
    return next((s.lower() for s in reversed(PurePosixPath(name).suffixes) if s.lower() in _SUFFIXES), None)


def _format_of(names: Sequence[str]) -> str:
    """The format where none is configured: what the files' endings say, else Parquet."""
    formats = {_SUFFIXES[suffix]: name for name in names if (suffix := _suffix(name))}
    if len(formats) > 1:
        raise InputError(f"source.path: the files are of different formats: {listing(formats.values())}; read one format, by a glob")
    return next(iter(formats), "parquet")


def _refuse_unknown(files: Sequence[tuple[storage.Location, storage.File]]) -> None:
    """Files whose names do not tell the format are Parquet, if they say so themselves."""
    for location, file in files:
        suffix = PurePosixPath(file.path).suffix
        if _suffix(file.path) is not None or not suffix:
            continue
        with location.fs.open_input_file(file.path) as stream:
            if stream.read(len(_PARQUET_MAGIC)) != _PARQUET_MAGIC:
                raise InputError(
                    f"source.format: {file.path}: the format cannot be told from {suffix!r}; set it to one of "
                    f"{listing(dict.fromkeys(_SUFFIXES.values()))}, delta"
                )
        return


def _refuse_delta(found: Sequence[storage.Location]) -> None:
    """A Delta table's folder, or one in it, read as Parquet would give removed rows too."""
    for location in found:
        above = [str(folder) for folder in PurePosixPath(location.path).parents if str(folder) != "."]
        for folder in (location.path, *above):
            if _is_delta(storage.Location(location.fs, folder)):
                where = "is" if folder == location.path else f"is in {folder}, which is"
                raise InputError(
                    f"source.format: {location.path} {where} a Delta table, and reading it as parquet would take removed rows too; use "
                    f"source.path={folder} with source.format=delta, and source.filter for a part of it"
                )


def _is_delta(folder: storage.Location) -> bool:
    try:
        return (folder / "_delta_log").is_dir()
    except OSError:
        return False  # a store may not let us look above what we may read


def _refuse_unread(files: Sequence[tuple[storage.Location, storage.File]], config: SourceConfig) -> None:
    """Refuse files that Spark would leave out silently, or read twice."""
    seen: set[str] = set()
    levels: dict[str, tuple[str, ...]] = {}
    recursive = config.format in ROW_PER_FILE or (option(config.options, "recursiveFileLookup") or "").lower() == "true"
    for location, file in files:
        if file.path in seen:
            raise InputError(f"source.path: {file.path} would be read twice; list it, or what it is in, once")
        seen.add(file.path)
        folders = file.path.removeprefix(location.path.rstrip("/") + "/").split("/")[:-1] if file.path != location.path else []
        if not recursive and not all("=" in folder for folder in folders):
            raise InputError(
                f"source.path: Spark would leave out {file.path}, because it does not look into folders that are no partitions; set "
                "source.options.recursiveFileLookup=true, or list the folders"
            )
        names = tuple(folder.partition("=")[0] for folder in folders)
        if not recursive and names != levels.setdefault(location.path, names):
            # Spark takes partitions from one level of folders, and leaves out the files above it.
            raise InputError(
                f"source.path: {file.path} lies beside partition folders, or in others than the first file's "
                f"({'/'.join(levels[location.path]) or 'none'}); Spark would leave out one or the other. Read them apart"
            )


def _empty(files: Sequence[tuple[storage.Location, storage.File]]) -> tuple[storage.File, ...]:
    """The files of no bytes; ``file_rows`` knows what Spark calls them where they are local."""
    for location, file in files:
        if not file.size and not location.is_local:
            raise InputError(f"source.path: {file.path} is empty, and Spark would leave it out; remove it")
    return tuple(file for _, file in files if not file.size)


def _no_such_path(given: str, path: str) -> str:
    if storage.has_glob(path):
        return f"source.path: no file matches {given}"
    location = storage.Location.of(path)
    parent = storage.Location.of(str(PurePosixPath(location.path).parent)) if location and location.is_local else None
    names = [child.name for child in parent.children()] if parent else []
    return f"source.path: {given} does not exist (looked for {path}).{did_you_mean(PurePosixPath(path).name, names)}"


def _inspect_delta(config: SourceConfig, paths: tuple[str, ...], found: Sequence[storage.Location]) -> Inspection:
    readers.check_options("delta", config.options)
    if len(paths) != 1 or len(found) > 1 or (found and storage.absolute(found[0].path) != paths[0] and found[0].is_local):
        raise InputError(f"source.path: a Delta table is one path; found {listing(paths)}")
    if config.ddl is not None:
        raise ConfigError("source.schema: a Delta table has its own; leave it out, and use columns.select and columns.cast")
    inputs = (storage.for_spark(paths[0]),)
    if not found:
        return Inspection("delta", paths, inputs, version=config.version)
    if not (found[0] / "_delta_log").is_dir():
        raise InputError(f"source.path: {paths[0]} is no Delta table (there is no _delta_log in it)")
    latest = _delta_version(paths[0])
    if config.version is not None and latest is not None and config.version > latest:
        raise InputError(f"source.version: {paths[0]} has the versions up to {latest}; got {config.version}")
    pinned = config.version if config.version is not None or config.timestamp is not None else latest
    parquet, only_spark = _delta_files(found[0], pinned)
    return Inspection("delta", paths, inputs, version=pinned, parquet=parquet, only_spark=only_spark)


def _delta_files(folder: storage.Location, version: int | None) -> tuple[ParquetFiles | None, str]:
    """The snapshot's files, or why only Spark reads them right. What is broken is for Spark to say."""
    if version is None or not folder.is_local:
        return None, "the Delta table is not on this machine, or its version is not known"
    try:
        return delta_files.files_of(DeltaTable(folder.path, version=version), folder.path), ""
    except OnlySparkError as reason:
        return None, str(reason)
    except Exception as error:
        return None, f"the Delta table's files cannot be read: {error}"


def _delta_version(path: str) -> int | None:
    """The table's newest version; None where the library cannot read its log, and Spark pins it by itself."""
    if storage.closed_to_delta(path) is not None:
        return None
    try:
        return int(DeltaTable(path, without_files=True, storage_options=storage.delta_options(path)).version())
    except Exception:
        return None
