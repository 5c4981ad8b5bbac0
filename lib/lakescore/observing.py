"""What the action that writes a batch counts on its way, so that no row is read or predicted a second time for it."""

from __future__ import annotations

import logging
from typing import Any

from pyspark.sql import Column, DataFrame, Observation

log = logging.getLogger(__name__)


class Observed:
    """Counts of the rows that pass one point of a plan; of a retried task they replace what it had counted before."""

    def __init__(self) -> None:
        self._observation = Observation()
        self._counted: tuple[DataFrame, tuple[Column, ...]] | None = None

    def watch(self, df: DataFrame, *values: Column) -> DataFrame:
        """The same rows; the first action over them finds the ``values``, which are aggregates with names."""
        self._counted = df, values
        return df.observe(self._observation, *values)

    def get(self) -> dict[str, Any]:
        """What was found, by the values' names; only after the action."""
        found = dict(self._observation.get)
        if found or self._counted is None:
            return found
        # Servers of Spark Connect before 4.2 wait a moment at most for what a writing command has counted (SPARK-54279, SPARK-55037).
        log.info("spark: what the job counted was lost by the Spark Connect server, and is counted again")
        df, values = self._counted
        (found,) = df.agg(*values).toArrow().to_pylist()
        return dict(found)
