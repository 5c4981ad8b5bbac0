"""``scoring.allow_reuse``: what a run depends on as one digest, and the earlier run with the same one.

The digest covers the input (paths, sizes and modification times of files; a Delta version; inline rows), the model's and the script's
content, the side inputs, and the configuration but for its sections run, tracking, spark and service.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from lakescore import storage
from lakescore.config import OutputConfig, ScoreConfig

TAG = "lakescore.reuse_key"
_OUTSIDE = ("run", "tracking", "spark", "service")


def key(config: ScoreConfig, version: int | None, digests: list[str]) -> str | None:
    """The digest of all that the output depends on.

    Args:
        config: the resolved configuration.
        version: the source's version, where it is a Delta table.
        digests: of the model and the script.

    Returns:
        The digest, or None where the input has nothing by which it could be known again: a query, a table without versions, files
        that only Spark can list.
    """
    data = _input(config, version)
    sides = [_files(path) for path in config.model.side_inputs.values()]
    if data is None or None in sides:
        return None
    settings = {name: section for name, section in config.to_dict().items() if name not in _OUTSIDE}
    settings["model"] = {
        name: value for name, value in settings["model"].items() if name not in ("uri", "entry_script", "source_directory")
    }
    if config.output.is_own_folder:
        settings["output"] = {**settings["output"], "path": None}
    settings["scoring"] = {name: value for name, value in settings["scoring"].items() if name != "allow_reuse"}
    text = json.dumps([data, sides, digests, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def output_of(config: OutputConfig, location: str) -> OutputConfig:
    """Where an earlier run's output is: a file in that run's own folder is not where this run would put it.

    Args:
        config: this run's section ``output``.
        location: the earlier run's output, as it was recorded.
    """
    return config.model_copy(update={"path": location.rpartition("/")[0]}) if config.is_own_folder else config


def _input(config: ScoreConfig, version: int | None) -> Any:
    source = config.source
    if source.rows is not None:
        return "rows"  # they are in the configuration
    if source.data is not None or source.query is not None or (source.table is not None and version is None):
        return None
    if version is not None:
        return [source.table, [storage.absolute(path) for path in source.path or ()], version]
    found = [_files(path) for path in source.path or ()]
    return None if None in found else found


def _files(path: str) -> list[list[Any]] | None:
    """Path, bytes and modification time of each file; None where this process cannot list them."""
    locations = storage.expand(storage.absolute(path))
    if locations is None:
        return None
    return [[file.path, file.size, file.modified_ms] for location in locations for file in location.files()]


def find(client: MlflowClient, experiment_id: str, digest: str) -> list[Run]:
    """The finished runs with this digest, the newest first."""
    wanted = f"tags.`{TAG}` = '{digest}' and tags.`lakescore.outcome` = 'scored' and attributes.status = 'FINISHED'"
    return list(client.search_runs([experiment_id], wanted, max_results=20, order_by=["attributes.start_time DESC"]))
