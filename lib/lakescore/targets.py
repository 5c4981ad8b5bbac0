"""An output as a person names it (a path, a table, a configuration) in; where it is and what stands beside it out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from lakescore import references, runs, storage, verdict
from lakescore.compose import compose
from lakescore.config import OutputConfig, ScoreConfig, SparkConfig, TrackingConfig
from lakescore.errors import ConfigError, InputError, did_you_mean
from lakescore.redact import redact
from lakescore.schema import PARTITION
from lakescore.sinks import delta, journal, quarantine, rows
from lakescore.storage import Location

Config = ScoreConfig | Mapping[str, Any] | str | Path | Sequence[str | Path]
# What no output needs, and a configuration must have. Where no file says otherwise, rows may be quarantined.
_ANYTHING = {"model": {"uri": "-"}, "source": {"path": ["-"]}, "errors": {"on_row_error": "quarantine"}}


@dataclass(frozen=True)
class Target:
    """An output and what belongs to it.

    Attributes:
        output: its section; ``file`` is None where all files of a folder are meant.
        quarantine, drift_table: the tables beside it; drift_folder: the folder of the reports, each in one of its batch's name.
    """

    output: OutputConfig
    quarantine: OutputConfig
    drift_table: OutputConfig | None
    drift_folder: str | None
    tracking: TrackingConfig
    spark: SparkConfig

    @property
    def location(self) -> str:
        """As runs record it."""
        if self.output.table is not None:
            return self.output.table
        folder = storage.absolute(self.output.path or "")
        return folder if self.output.file is None else f"{folder.rstrip('/')}/{self.output.file}"

    @property
    def beside(self) -> dict[str, OutputConfig]:
        """The tables beside the output, by what they are."""
        found = {"quarantine": self.quarantine}
        return found if self.drift_table is None else {**found, "drift table": self.drift_table}

    def has(self, run: Run) -> bool | None:
        """Whether a run writes here; None where it has not told."""
        written = runs.written_to(run)
        if written is None:
            return None
        if self.output.is_row_file and self.output.file is None:
            written = written.rpartition("/")[0]
        return bool(written.rstrip("/") == redact(self.location).rstrip("/"))


def resolve(output: str | None, config: Config | None = None, overrides: Sequence[str] = ()) -> Target:
    """Find out what is meant.

    Args:
        output: a path (with a slash in it, or that is there) or a table's name; None: the configuration's.
        config: as for ``score``, or several files.
        overrides: ``section.key=value``.

    Raises:
        ConfigError: neither is given, or the configuration is wrong.
        InputError: there is nothing at the path that Lakescore could have written.
    """
    if output is None and config is None:
        raise ConfigError("OUTPUT: is required without a configuration: a path (with a / in it) or a table's name")
    given = _section_of(output, config is not None) if output is not None else {}
    if config is None:
        found = compose((), overrides, {**_ANYTHING, "output": given})
    elif isinstance(config, (ScoreConfig, Mapping)):
        tree = config.to_dict(rows=config.source.rows) if isinstance(config, ScoreConfig) else dict(config)
        own = {name: value for name, value in (tree.get("output") or {}).items() if not given or name not in ("path", "table", "file")}
        found = compose((), overrides, {**tree, "output": {**own, **given}})
    else:
        files = [config] if isinstance(config, (str, Path)) else config
        found = compose(files, overrides, {"output": given} if given else None)
    name = found.drift.table
    return Target(
        found.output,
        quarantine.output_of(found.output, found.errors),
        None if name is None else verdict.table_of(found.output, name),
        verdict.folder_of(found.output, found.drift.folder),
        found.tracking,
        found.spark,
    )


def _section_of(output: str, has_config: bool) -> dict[str, Any]:
    """The section ``output`` for a path or a table's name."""
    if not isinstance(output, (str, os.PathLike)):
        raise ConfigError(f"OUTPUT: got {output!r:.80}; expected a path or a table's name")
    output = storage.checked(os.fspath(output))
    if "table" in references.source_of(output):
        return {"table": output, "format": "delta"}
    place = Location.of(output)
    if place is None or not place.exists():
        if has_config:  # which says what format it would have
            return {"path": output}
        siblings = [child.name for child in place.parent.children()] if place else []
        raise InputError(f"OUTPUT: there is nothing at {output}.{did_you_mean(place.name, siblings) if place else ''}")
    if not place.is_dir():
        record = rows.read_record(place)
        if record is None and place.path not in {file.path for file in rows.recorded_files(place.parent)}:
            raise InputError(f"OUTPUT: {output} is no file that Lakescore wrote")
        kind = str(record["format"]) if record else "jsonl"
        return {"path": place.parent.path if place.is_local else output.rpartition("/")[0], "file": place.name, "format": kind}
    kind_there = _format_of(place)
    if kind_there is None and not has_config:
        raise InputError(f"OUTPUT: {output} holds nothing that Lakescore wrote")
    return {"path": output, **({"format": kind_there} if kind_there else {})}


def _format_of(folder: Location) -> str | None:
    """What an output's folder holds, be it only what was staged for it."""
    names = {child.name for child in folder.children()}
    if names & {"_delta_log", delta.STAGING}:
        return "delta"
    if journal.HIDDEN in names or any(name.startswith(f"{PARTITION}=") for name in names):
        return "parquet"
    files = rows.recorded_files(folder)
    if files or rows.HIDDEN in names:
        records = [record for file in files if file.exists() and (record := rows.read_record(file)) is not None]
        return str(records[0]["format"]) if records else "jsonl"
    return None
