"""What a person names to compare with, in; statistics that are stored somewhere, or a DataFrame to make them of, out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from pyspark.sql import DataFrame, SparkSession

from lakescore import source
from lakescore.config import SourceConfig
from lakescore.drift.statistics import FILE, MARK, Statistics, from_json
from lakescore.errors import ConfigError, InputError
from lakescore.mlflow_defaults import as_default
from lakescore.storage import Location, absolute

_SECTION = re.compile(r"^source[.](path|table): ")
_ARTIFACT = re.compile(r"^(runs|models|mlflow-artifacts):/")


def stored(given: str, client: MlflowClient, registry_uri: str | None, folder: Path, where: str) -> Statistics | None:
    """Statistics that are there already; None where data is named.

    Args:
        given: a JSON file of statistics, or a run's artifact or a model's URI in MLflow.
        client, registry_uri: where MLflow is asked.
        folder: what is fetched goes there.
        where: how errors name it.

    Raises:
        InputError: it cannot be fetched, or is malformed.
    """
    if _ARTIFACT.match(given):
        return _fetched(given, client, registry_uri, folder, where)
    try:
        place = Location.of(absolute(given)) if given.endswith(".json") else None
        if place is None or not place.exists() or place.is_dir():
            return None
        # A JSON file of rows is data: it may be large, and in any encoding.
        is_statistics = MARK.encode() in next(place.chunks(), b"")[:1000]
        return from_json(place.read_text(), where) if is_statistics else None
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error}") from error


def source_of(given: str) -> dict[str, Any]:
    """The section ``source`` for a path, which has a slash or is there, or for a table's name."""
    return {"path": [given]} if "/" in given or Path(given).exists() else {"table": given}


@contextmanager
def named(where: str) -> Iterator[None]:
    """Name a data set in errors as it was given, and not as the reader of sources does, which has it from its configuration."""
    try:
        yield
    except (InputError, ConfigError) as error:
        text = str(error)
        if (reason := _SECTION.sub("", text)) == text:
            raise
        raise InputError(f"{where}: {reason}") from error


def read(spark: SparkSession, given: str, where: str) -> DataFrame:
    """The rows of a path or table.

    Raises:
        InputError: they cannot be read.
    """
    found = source_of(given)
    config = SourceConfig(path=tuple(found["path"])) if "path" in found else SourceConfig(table=given)
    try:
        return source.read(spark, config, source.inspect(config), ()).df
    except (InputError, ConfigError) as error:
        # Where it is given, and not where the reader of sources has it from.
        reason = _SECTION.sub("", str(error)).removeprefix(given)
        raise InputError(f"{where}{'' if reason.startswith(' ') else ': '}{reason}") from error


def _fetched(uri: str, client: MlflowClient, registry_uri: str | None, folder: Path, where: str) -> Statistics:
    """A file of a run, or what is kept with a model."""
    wanted = uri if uri.endswith(".json") else f"{uri.rstrip('/')}/{FILE}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with as_default(client.tracking_uri, registry_uri):
            file = Path(download_artifacts(artifact_uri=wanted, dst_path=str(folder)))
    except Exception as error:
        raise InputError(f"{where} cannot be fetched: {error}") from error
    return from_json(file.read_text(encoding="utf-8", errors="replace"), where)
