"""A Delta table in, rows of it out, by deltalake's own queries.

Its datasets for pyarrow will not do: a table with column mapping is all null in them, and of a file whose statistics leave a column out,
as they do texts of more than 32 characters, a filter on that column finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

# Of what a Delta table can ask of its readers, what the queries know.
_KNOWN_FEATURES = {"columnMapping", "deletionVectors", "timestampNtz"}
_PLAIN_READERS = 2
# Times as INT96, Spark's default: as nanoseconds, far ones would become others.
_CONFIG = {"datafusion.execution.parquet.coerce_int96": "us"}


def refusal(table: DeltaTable) -> str:
    """Why only Spark can read the rows; empty: ``query`` can."""
    protocol = table.protocol()
    if protocol.min_reader_version > _PLAIN_READERS and (more := set(protocol.reader_features or ()) - _KNOWN_FEATURES):
        return f"it asks its readers for {', '.join(sorted(more))}"
    # By the numbers of the fields, which need not stand at their names.
    return "its columns are mapped by id" if table.metadata().configuration.get("delta.columnMapping.mode") == "id" else ""


def query(table: DeltaTable, equal: Mapping[str, str], limit: int | None = None) -> pa.Table:
    """The rows with these values, at the version that is loaded, with the table's types; no order.

    Args:
        table: of which ``refusal`` has nothing to say.
        equal: texts by the names of columns.
        limit: rows at most.
    """
    found = _run(table, "*", equal, "" if limit is None else f" LIMIT {limit}")
    # Text comes as a view of text, which not everybody knows.
    return found.cast(pa.schema(pa.schema(table.schema().to_arrow()), metadata={}))


def count(table: DeltaTable, equal: Mapping[str, str]) -> int:
    """How many rows have these values; as ``query``."""
    return int(_run(table, "count(*) AS rows", equal).column("rows")[0].as_py())


def _run(table: DeltaTable, what: str, equal: Mapping[str, str], more: str = "") -> pa.Table:
    conditions = [f'"{name}" = {_quoted(value)}' for name, value in equal.items()]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return pa.table(QueryBuilder(_CONFIG).register("rows", table).execute(f"SELECT {what} FROM rows{where}{more}").read_all())


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
