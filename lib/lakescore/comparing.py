"""Two data sets in, the drift of one from the other out, without a model; and the drift table in, drift over time out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from lakescore import references, session, storage, tracking
from lakescore.config import SparkConfig, TrackingConfig
from lakescore.drift import history, profile, table
from lakescore.drift.analysis import Analysis, Thresholds, analyse
from lakescore.drift.files import PLOT, files_of
from lakescore.drift.profile import Monitored
from lakescore.drift.statistics import Statistics
from lakescore.errors import ConfigError, DriftError, InputError, did_you_mean, listing
from lakescore.redact import redact
from lakescore.schema import BATCH, PARTITION, column

HISTORY_PAGE, HISTORY_PLOT = "drift_history.html", "drift_history.png"


def statistics(
    data: str, labels: Collection[str] = (), drop: Collection[str] = (), spark: SparkSession | None = None, where: str = "DATA"
) -> Statistics:
    """The statistics of a data set, all of its columns as features but the labels.

    Args:
        data: a path (with a slash in it, or that is there) or a table's name.
        labels: columns that are known outcomes; drop: columns that are left out.
        spark: the session to use.
        where: how errors name it.

    Raises:
        InputError: it cannot be read, or has not a column.
    """
    df = references.read(spark or _session(data), data, f"{where}: {redact(data)}")
    _refuse_unknown(df.columns, labels, drop)
    return profile.statistics_of(df, _columns(df, labels, drop), redact(data))


def compare(
    data: str,
    reference: str,
    thresholds: Thresholds,
    *,
    labels: Collection[str] = (),
    drop: Collection[str] = (),
    tracking_uri: str | None = None,
    spark: SparkSession | None = None,
) -> tuple[Analysis, Statistics]:
    """The drift of a data set from a reference.

    Args:
        data: a path or a table's name.
        reference: the same, or statistics: a JSON file, ``runs:/ID/dataset_statistics.json``, a model's URI.
        thresholds: of the status.
        labels, drop: columns that are outcomes, or left out.
        tracking_uri: where runs and models are; default: MLflow's own.
        spark: the session to use.

    Returns:
        The analysis, and the statistics of ``data`` over the reference's bins.

    Raises:
        InputError: one of them cannot be read.
    """
    where = f"--reference: {redact(reference)}"
    with storage.scratch_folder() as folder, tracking.quiet_mlflow():
        client = tracking.client_for(TrackingConfig(tracking_uri=tracking_uri))
        known = references.stored(reference, client, None, folder, where)
    spark = spark or _session(data, reference)
    df = references.read(spark, data, f"DATA: {redact(data)}")
    if known is None:
        rows = references.read(spark, reference, where)
        _refuse_unknown([*df.columns, *rows.columns], labels, drop)
        types = {field.name: field.dataType for field in df.schema.fields}
        expected = [
            profile.of_reference(one.name, one.role, one.type, types.get(one.name), one.values) for one in _columns(rows, labels, drop)
        ]
        known = profile.statistics_of(rows, expected, redact(reference))
    else:
        _refuse_unknown([*df.columns, *known.columns], labels, drop)
        kept = {name: one for name, one in known.columns.items() if name not in drop}
        known = replace(known, columns={name: replace(one, role="label") if name in labels else one for name, one in kept.items()})
    # Without a model there are no predictions to speak of: columns of that role are compared as what they are called.
    roles = {name: one.role for name, one in known.columns.items()}
    columns = [replace(one, role=roles.get(one.name, one.role)) for one in _columns(df, labels, drop)]
    batch = profile.compared(df, columns, known, redact(data))
    return analyse(batch, known, thresholds), batch


def _session(*names: str) -> SparkSession:
    is_table = ["table" in references.source_of(name) for name in names]
    return session.open_session(SparkConfig(), "lakescore-drift", tables=any(is_table))


def _refuse_unknown(names: Sequence[str], labels: Collection[str], drop: Collection[str]) -> None:
    for option, given in (("--label", labels), ("--drop", drop)):
        for name in given:
            if name not in names:
                hint = did_you_mean(name, names) or f" There are {listing(dict.fromkeys(names), 12)}."
                raise InputError(f"{option}: there is no column {name!r}.{hint}")


def _columns(df: DataFrame, labels: Collection[str], drop: Collection[str]) -> list[Monitored]:
    fields = [field for field in df.schema.fields if field.name not in drop]
    return [Monitored(one.name, "label" if one.name in labels else "feature", one.dataType, partial(column, one.name)) for one in fields]


def thresholds(possible: float, detected: float) -> Thresholds:
    """The thresholds of the command line.

    Raises:
        ConfigError: naming both.
    """
    try:
        return Thresholds(possible, detected)
    except ValueError as error:
        raise ConfigError(f"--possible-threshold, --detected-threshold: {error}") from error


def report(
    data: str,
    reference: str,
    limits: Thresholds,
    folder: Path,
    *,
    labels: Collection[str] = (),
    drop: Collection[str] = (),
    tracking_uri: str | None = None,
    fails: bool = False,
) -> str:
    """Compare, write the three files, and say what was found as a table.

    Args:
        data, reference, labels, drop, tracking_uri: as for ``compare``.
        limits: of the status.
        folder: where the files go; made if it is not there.
        fails: whether drift that is detected is an error.

    Raises:
        DriftError: drift was detected, and ``fails``.
        InputError: one of them cannot be read.
        ConfigError: the folder cannot be written to.
    """
    analysis, batch = compare(data, reference, limits, labels=labels, drop=drop, tracking_uri=tracking_uri)
    facts = {"data": redact(data), "rows": f"{batch.rows:,}", "compared with": redact(reference)}
    files = files_of(analysis, batch, f"Drift of {redact(data)}", facts)
    _write(folder, {name: text.encode() for name, text in files.items()})
    if fails and analysis.status == "detected":
        raise DriftError(f"--on-drift: fail, and {redact(data)} has drifted from {redact(reference)}: {analysis}; see {folder / PLOT}")
    lines = [f"{'column':<30} {'drift':>6}  status"]
    lines += [f"{one.name[:30]:<30} {one.drift:>6.3f}  {one.status}" for one in analysis.analysed]
    lines += [f"{one.name[:30]:<30} {'':>6}  not analysed: {one.not_analysed}" for one in analysis.unanalysed]
    return redact("\n".join([*lines, f"drift: {analysis}", f"report: {folder / PLOT}"]))


def plot_history(name: str, folder: Path, limits: Thresholds | None = None) -> str:
    """Plot the drift table over time; returns where the plots are.

    Args:
        name: the drift table: a path (with a slash in it, or that is there) or a table's name.
        folder: where the plots go; made if it is not there.
        limits: where the lines of the status are; None: the default ones.

    Raises:
        InputError: it cannot be read, or is no drift table.
        ConfigError: the folder cannot be written to.
    """
    where = f"--history: {redact(name)}"
    df = references.read(_session(name), name, where)
    missing = [column for column in (*table.SCHEMA.names, BATCH, "scored_at", PARTITION) if column not in df.columns]
    if missing:
        raise InputError(f"{where} is no drift table: it has no column {missing[0]!r}")
    rows = df.where(column("measure") == table.DRIFT).toPandas()
    if rows.empty:
        raise InputError(f"{where} has no rows yet")
    png, page = history.plot(table.over_time(rows), f"Drift in {redact(name)}", limits)
    _write(folder, {HISTORY_PAGE: page.encode(), HISTORY_PLOT: png})
    return f"{rows[BATCH].nunique()} batches: {folder / HISTORY_PAGE}, {folder / HISTORY_PLOT}"


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ConfigError(f"--output: {folder} cannot be written to: {error.strerror or error}") from error
