"""What must hold after a fault and a run of the same batch, whatever the fault was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from chaos import world
from chaos.case import Case
from chaos.jobs import kill, marked

# What a killed job leaves running may end by itself for so long.
LEFT_SECONDS = 15.0


def rows_of(format_: str, table: Path) -> pa.Table:
    """All rows of a table, as any reader gets them."""
    if format_ == "delta":
        return DeltaTable(str(table)).to_pyarrow_table()
    partitioning = ds.partitioning(pa.schema([("score_date", pa.date32()), ("batch_id", pa.string())]), flavor="hive")
    return ds.dataset(table, partitioning=partitioning, format="parquet").to_table()


def digests(format_: str, table: Path, batches: Collection[str]) -> dict[str, str]:
    """By batch, a digest of the content of its rows."""
    rows = rows_of(format_, table)
    found = {}
    for batch in batches:
        chosen = rows.filter(pa.compute.equal(rows["batch_id"], batch)).sort_by("id")
        text = json.dumps(chosen.select(sorted(chosen.column_names)).to_pydict(), default=str)
        found[batch] = hashlib.sha256(text.encode()).hexdigest()
    return found


def check(case: Case, before: dict[str, str]) -> None:
    """Note all that does not hold.

    Args:
        case: whose batches were run again; nothing else of it runs.
        before: ``digests`` of the table before the fault.
    """
    rows = rows_of(case.fault.format, case.table)
    runs = _runs(case.folder / "mlflow.db")
    for batch in case.batches:
        _check_rows(case, batch, rows.filter(pa.compute.equal(rows["batch_id"], batch)), runs)
    others = set(rows["batch_id"].unique().to_pylist()) - set(case.batches) - set(case.earlier)
    if others:
        case.note("other", f"there are batches that nobody made: {others}")
    if digests(case.fault.format, case.table, case.earlier) != {batch: before[batch] for batch in case.earlier}:
        case.note("lost", "earlier batches are not what they were")
    check_staging(case, "after the next run")
    _check_runs(case, runs)
    check_processes(case)


def _check_rows(case: Case, batch: str, rows: pa.Table, runs: dict[str, dict[str, Any]]) -> None:
    ids = rows["id"].to_numpy()
    different = len(np.unique(ids))
    if different < case.world.rows:
        case.note("lost", f"{case.world.rows - different} rows of batch {batch} are not there")
    if len(ids) > different:
        case.note("doubled", f"{len(ids) - different} rows of batch {batch} are there twice")
    if not len(ids):
        return
    if not np.array_equal(rows["prediction"].to_numpy(), world.expected(case.world.rows, ids)):
        case.note("other", f"predictions of batch {batch} are wrong")
    makers = rows["run_id"].unique().to_pylist()
    if len(makers) != 1:
        case.note("doubled", f"the rows of batch {batch} are of {len(makers)} runs")
        return
    run = runs.get(makers[0])
    if run is None or run["status"] != "FINISHED" or run["tags"].get("lakescore.outcome") != "scored":
        case.note("other", f"the run that made batch {batch} is {run and run['status']}, {run and run['tags']}")
    elif run["metrics"].get("rows_written") != case.world.rows:
        case.note("other", f"the run that made batch {batch} says {run['metrics'].get('rows_written')} rows")


def check_staging(case: Case, when: str) -> None:
    """Nothing is left of what readers do not see, but files that Delta keeps for time travel."""
    is_delta = case.fault.format == "delta"
    hidden = case.table / ("lakescore" if is_delta else "_lakescore")
    named = _ever_named(case.table) if is_delta else set()
    # Hadoop keeps a checksum beside each file that it writes to a local disk.
    named |= {str(Path(name).with_name(f".{Path(name).name}.crc")) for name in named}
    left = [name for path in hidden.rglob("*") if path.is_file() and (name := str(path.relative_to(case.table))) not in named]
    if is_delta and case.replaced:
        left = []  # a run that replaces leaves other attempts to VACUUM: they may be a run's that is at work
    empty = [str(path.relative_to(case.table)) for path in case.table.rglob("*") if path.is_dir() and not any(path.iterdir())]
    # A file of the log under its temporary name, as the Delta library writes it.
    odd = [path.name for path in (case.table / "_delta_log").glob("*") if not re.fullmatch(r"\d{20}\.json", path.name)]
    scratch = [path.name for path in (case.folder / "tmp").glob("lakescore-*")]
    for what, found in (("staged files", left), ("empty folders", empty), ("log files", odd), ("scratch folders", scratch)):
        if found:
            case.note("stale", f"{what} are left {when}: {', '.join(sorted(found)[:4])}")


def _ever_named(table: Path) -> set[str]:
    """The files that any version of a Delta table names."""
    found = set()
    for path in (table / "_delta_log").glob("*.json"):
        for line in path.read_text(encoding="utf-8").splitlines():
            add = json.loads(line).get("add")
            if add is not None:
                found.add(unquote(add["path"]))
    return found


def _check_runs(case: Case, runs: dict[str, dict[str, Any]]) -> None:
    for run_id, run in runs.items():
        if run["status"] == "RUNNING":
            case.note("running", f"the run {run_id} of batch {run['tags'].get('lakescore.batch_id')} is RUNNING")
        elif run["status"] != "FINISHED" and not run["tags"].get("lakescore.error"):
            case.note("other", f"the run {run_id} is {run['status']} and does not say why")


def check_processes(case: Case) -> None:
    """What the jobs have started ends with them, or soon after."""
    until = time.monotonic() + LEFT_SECONDS
    while (left := marked(case.mark)) and time.monotonic() < until:
        time.sleep(0.1)
    for process in left:
        case.note("other", f"a process is left: {process.command[:100]}")
        kill(process.pid)


def runs_of(case: Case) -> dict[str, dict[str, Any]]:
    """Status, tags and metrics of the fault's MLflow runs, by run."""
    return _runs(case.folder / "mlflow.db")


def _runs(store: Path) -> dict[str, dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(store, timeout=20)) as database:
        found = {run: {"status": status} for run, status in database.execute("select run_uuid, status from runs")}
        for table, name in (("tags", "tags"), ("latest_metrics", "metrics")):
            values: dict[str, dict[str, Any]] = defaultdict(dict)
            for run, key, value in database.execute(f"select run_uuid, key, value from {table}"):
                values[run][key] = value
            for run in found:
                found[run][name] = values[run]
    return found
