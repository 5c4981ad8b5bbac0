"""``config.source`` in, what its files say out, before Spark starts: whatever is missing, foreign, broken or would be left out is named."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from lakescore import datafiles, delta_files, delta_log, file_checks, frames, readers, storage
from lakescore.catalog import quote_table
from lakescore.config import ROW_PER_FILE, SourceConfig
from lakescore.errors import ConfigError, InputError, did_you_mean, listing
from lakescore.offsets import Window
from lakescore.parquet_files import OnlySparkError, ParquetFiles
from lakescore.readers import option

log = logging.getLogger(__name__)

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
        window: what this batch reads of an incremental source; None: everything.
        base: the folder below which folders are partitions, where single files of it are read.
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
    window: Window | None = None
    base: str | None = None


def inspect(config: SourceConfig, data: Any = None, tolerant: bool = False, window: Window | None = None) -> Inspection:
    """Check what can be checked without Spark; of ``data``, given in Python, the rows are known.

    Args:
        config: the section ``source``.
        data: what the caller of ``score`` gave, where ``source.data`` is set.
        tolerant: whether files of which each is a row may be broken.
        window: what this batch reads of an incremental source; None: everything.

    Raises:
        InputError: a path does not exist, holds no file, or a file is broken, foreign or of another schema.
        ConfigError: a table's name is none, or the reader has no such option.
    """
    try:
        return _inspect(config, data, tolerant, window)
    except OSError as error:
        raise InputError(f"source.path: {listing(config.path or ())} cannot be read: {error}") from error


def _inspect(config: SourceConfig, data: Any, tolerant: bool, window: Window | None) -> Inspection:
    if config.table is not None:
        quote_table("source.table", config.table)
    if config.path is None:
        return Inspection(rows=frames.count(data if config.rows is None else config.rows), window=window)
    return replace(_inspect_paths(config, config.path, tolerant, window), window=window)


def _inspect_paths(config: SourceConfig, given_paths: Sequence[str], tolerant: bool, window: Window | None) -> Inspection:
    paths = tuple(storage.absolute(path) for path in given_paths)
    found: list[storage.Location] = []
    inputs: list[str] = []
    given_of: dict[str, str] = {}
    known = True
    for path, given in zip(paths, given_paths, strict=True):
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
        if not locations and (window is None or not window.files):
            raise InputError(_no_such_path(given, path))
        found += locations
        given_of |= {location.path: location.path if location.is_local else path for location in locations}
        inputs += [storage.for_spark_reader(location.path) if location.is_local else path for location in locations]
    if any((location / "_delta_log").is_dir() for location in found) and config.format in (None, "delta"):
        return _inspect_delta(config, paths, found, window)
    files = [(location, file) for location in found for file in _files(location) if _is_chosen(file, config)] if known else []
    base = None
    if window is not None and window.files:
        files = _only(files, window)
        inputs = [_as_input(location, given_of[location.path], file) for location, file in files]
        base = _base(config, given_of, files)
    format_ = config.format or _format_of([file.path for _, file in files] or paths)
    if config.format is None:
        _refuse_unknown(files)
    readers.check_options(format_, config.options)
    for key in ("version", "timestamp"):
        if format_ != "delta" and getattr(config, key) is not None:
            raise ConfigError(f"source.{key}: needs a Delta table, and {listing(given_paths)} is {format_}")
    tabs = all(_suffix(name) == ".tsv" for name in [file.path for _, file in files] or paths)
    if format_ == "delta":
        return _inspect_delta(config, paths, found, window)
    if not known:
        return Inspection(format_, paths, tuple(inputs), tabs)
    if format_ == "parquet":
        _refuse_delta(found)
    if not files:
        raise InputError(f"source.path: there is no file in {listing(given_paths)}")
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
        base=base,
    )


def _files(location: storage.Location) -> list[storage.File]:
    """All files of a place; what cannot be listed would be left out."""
    try:
        return list(location.files(strict=True))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = "a file's name in it is no UTF-8" if isinstance(error, UnicodeError) else str(error).splitlines()[0]
        raise InputError(f"source.path: {location.path} cannot be listed: {reason}") from error


def list_files(config: SourceConfig) -> list[storage.File]:
    """The files of ``source.path`` now, none where a glob matches none yet.

    Raises:
        InputError: a path does not exist, is a Delta table, or cannot be listed by this process.
    """
    found: list[storage.File] = []
    for given in config.path or ():
        path = storage.absolute(given)
        locations = storage.expand(path)
        if locations is None:
            raise InputError(f"source.incremental.by: files: {given} can be listed by Spark alone; give folders, or globs without {{a,b}}")
        if not locations and not storage.has_glob(path):
            raise InputError(_no_such_path(given, path))
        if any(_is_delta(location) for location in locations):
            raise InputError(f"source.incremental.by: files: {given} is a Delta table, whose files are no rows; take versions or changes")
        found += [file for location in locations for file in _files(location) if _is_chosen(file, config)]
    return found


def _only(files: Sequence[tuple[storage.Location, storage.File]], window: Window) -> list[tuple[storage.Location, storage.File]]:
    """The files of a window.

    Raises:
        InputError: one of them is gone.
    """
    there = {file.path: (location, file) for location, file in files}
    gone = [file.path for file in window.files if file.path not in there]
    if gone:
        raise InputError(
            f"source.path: {gone[0]} is gone, which this batch is to read ({len(gone)} of its {len(window.files)} files are); put it back, "
            "or remove the newest file of source.incremental.state, whose batch is not published, to begin it anew without"
        )
    planned = {file.path: file for file in window.files}
    changed = [path for path, file in planned.items() if there[path][1] != file]
    if changed:
        log.warning("source: %s has changed since this batch was planned, and is read as it is now (%d files)", changed[0], len(changed))
    return [there[path] for path in planned]


def _as_input(location: storage.Location, given: str, file: storage.File) -> str:
    """One file as Spark gets it; ``given`` is the path that it was found below."""
    return storage.for_spark_reader(file.path) if location.is_local else given.rstrip("/") + _below(location, file)


def _below(location: storage.Location, file: storage.File) -> str:
    return file.path.removeprefix(location.path.rstrip("/"))


def _base(config: SourceConfig, given: Mapping[str, str], files: Sequence[tuple[storage.Location, storage.File]]) -> str | None:
    """The folder whose folders are partitions; None where there are none.

    Raises:
        InputError: there are several such folders.
    """
    if (option(config.options, "recursiveFileLookup") or "").lower() == "true" or config.format in ROW_PER_FILE:
        return None
    roots = list(dict.fromkeys(given[location.path] for location, file in files if "=" in _below(location, file).rpartition("/")[0]))
    if len(roots) > 1:
        raise InputError(
            f"source.incremental.by: files: {listing(roots)} have partition folders, which can be read below one folder only; give each "
            "folder a job of its own"
        )
    return storage.for_spark(roots[0]) if roots else None


def _why_spark(files: Sequence[tuple[storage.Location, storage.File]]) -> str | None:
    """Why workers may not read the files by themselves; None where they may."""
    if not all(location.is_local for location, _ in files):
        return "the files are not on this machine"
    if any("=" in part for location, file in files for part in file.path.removeprefix(location.path).split("/")[:-1]):
        return "the source has partition folders"
    return None


def _is_chosen(file: storage.File, config: SourceConfig) -> bool:
    pattern = option(config.options, "pathGlobFilter")
    return pattern is None or any(fnmatch(PurePosixPath(file.path).name, storage.as_glob(one)) for one in _alternatives(pattern))


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


def _inspect_delta(config: SourceConfig, paths: tuple[str, ...], found: Sequence[storage.Location], window: Window | None) -> Inspection:
    readers.check_options("delta", config.options)
    if len(paths) != 1 or len(found) > 1 or (found and storage.absolute(found[0].path) != paths[0] and found[0].is_local):
        raise InputError(f"source.path: a Delta table is one path; found {listing(paths)}")
    if config.ddl is not None:
        raise ConfigError("source.schema: a Delta table has its own; leave it out, and use columns.select and columns.cast")
    inputs = (storage.for_spark(paths[0]),)
    if window is not None and window.by in ("versions", "changes"):
        return _inspect_window(paths, inputs, window)
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


def _inspect_window(paths: tuple[str, ...], inputs: tuple[str, ...], window: Window) -> Inspection:
    """The same for some versions of a table."""
    version, place = int(window.to or 0), storage.Location.of(paths[0])
    if window.by == "changes":
        return Inspection("delta", paths, inputs, version=version, only_spark="the change feed is read")
    if window.is_snapshot:
        parquet, only_spark = _delta_files(place, version) if place is not None else (None, "the Delta table is not on this machine")
        return Inspection("delta", paths, inputs, version=version, parquet=parquet, only_spark=only_spark)
    adds = delta_log.added(paths[0], int(window.after or 0), version)
    files, size = len(adds), sum(int(add["size"]) for add in adds)
    try:
        if place is None or not place.is_local:
            raise OnlySparkError("the Delta table is not on this machine")
        parquet, only_spark = delta_files.added_to(delta_log.open_table(paths[0], version), place.path, adds), ""
    except OnlySparkError as reason:
        parquet, only_spark = None, str(reason)
    return Inspection("delta", paths, inputs, files=files, size=size, version=version, parquet=parquet, only_spark=only_spark)


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
