"""Files of this machine in, an archive that Spark brings to every executor out; on Spark Connect too."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import SparkSession

from lakescore.errors import LakescoreError
from lakescore.failures import translated


def ship(spark: SparkSession, archive: Path, parts: Mapping[str, Path], what: str) -> None:
    """Pack files and folders; workers find them unpacked below ``SparkFiles.get(archive.name)``.

    Args:
        spark: the session.
        archive: the ``.zip`` to write, of a name that no other of the session has.
        parts: files and folders by their path in the archive; "" is its root.
        what: the beginning of an error: ``model.entry_script: Spark cannot ship the script's archive``.

    Raises:
        LakescoreError: Spark refuses the archive.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name, path in parts.items():
            _pack(packed, path, name)
    with translated(what, LakescoreError):
        spark.addArtifacts(str(archive), archive=True)


def _pack(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    if path.is_file():
        archive.write(path, name)
        return
    for folder, _, files in os.walk(path, followlinks=True):
        for file in files:
            full = Path(folder, file)
            archive.write(full, os.path.join(name, full.relative_to(path)))
