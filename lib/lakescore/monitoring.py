"""What is watched of a run: the reference, the columns that are counted on the way, and the statistics that come of it.

Nothing is read or predicted twice: the Python workers that have the rows in hand anyway count them over the reference's bins, and each
task's counts leave with its last row, as one value that ``DataFrame.observe`` collects (``drift/counting.py``). A reference that is data
and not statistics is read by itself, once in a run.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import references
from lakescore.columns import Input
from lakescore.config import DriftConfig
from lakescore.drift import counting, profile
from lakescore.drift.counting import COUNTED_FIELD, Bins, Watch
from lakescore.drift.profile import Monitored
from lakescore.drift.statistics import FILE, Statistics, from_json
from lakescore.engine.isolation import ERROR_FIELD, VALUE_FIELD
from lakescore.errors import ConfigError, InputError
from lakescore.observing import Observed
from lakescore.planning import OWN, PREDICTION, Plan
from lakescore.redact import redact
from lakescore.schema import TIMESTAMPS, column, is_same

log = logging.getLogger(__name__)

_ELEMENT = re.compile(r"prediction\[(\d+)\]")
# An array with more numbers than this is no set of class probabilities.
_MOST_ELEMENTS = 20


@dataclass(frozen=True)
class Monitor:
    """What a run watches.

    Attributes:
        reference: what the batch is compared with; described: where it is from.
        monitored: the columns of both; bins: what each is counted over; strangers: columns that cannot be
            counted, or that the reference has not.
        aside: the columns that are no inputs of the model, or that pandas would not have as they are counted.
        floats: of the columns of numbers in which pandas does not tell null from NaN, the names in the statistics and in the source.
    """

    reference: Statistics
    described: str
    monitored: tuple[Monitored, ...]
    strangers: tuple[Monitored, ...]
    bins: Mapping[str, Bins]
    aside: tuple[Monitored, ...]
    floats: Mapping[str, str]

    @property
    def beside(self) -> dict[str, Column]:
        """Fields to add to the model's input, which no model sees: what is ``aside``."""
        return {_aside_name(i): one.value for i, one in enumerate(self.aside)}

    def watch(self) -> Watch:
        """What the workers are told."""
        aside = {one.name: _aside_name(i) for i, one in enumerate(self.aside)}
        features = {one.name: (self.bins[one.name], aside.get(one.name, one.name)) for one in self.monitored if one.role != "prediction"}
        predictions = {one.name: (self.bins[one.name], *_place(one.name)) for one in self.monitored if one.role == "prediction"}
        return Watch(features, predictions, VALUE_FIELD, ERROR_FIELD)


def prepare(plan: Plan, client: MlflowClient, registry_uri: str | None, scratch: Path) -> Monitor | None:
    """Find the reference, count it where it is data, and decide what is counted; None where there is nothing to compare with.

    Args:
        plan: the run.
        client, registry_uri: where MLflow is asked for a reference.
        scratch: what is fetched goes there.

    Raises:
        ConfigError: drift is to be watched, and there is no reference.
        InputError: the reference cannot be read.
    """
    found = find(plan, client, registry_uri, scratch)
    if found is None:
        return None
    reference, described = found
    statistics = reference if isinstance(reference, Statistics) else _of_data(plan, reference, described)
    known_labels = [name for name, one in statistics.columns.items() if one.role == "label"]
    candidates = all_monitored(plan, _elements(statistics), known_labels)
    monitored = tuple(one for one in candidates if one.kind is not None and one.name in statistics.columns)
    bins = {one.name: profile.bins_of(statistics.columns[one.name], one) for one in monitored}
    aside = tuple(one for one in monitored if _is_aside(one, plan))
    made_of = {one.feature.name: one.column for one in plan.alignment.inputs}
    floats = {one.name: made_of.get(one.name) or one.name for one in monitored if one.is_float and one.role != "prediction"}
    log.info("drift: %d columns are compared with %s", len(monitored), described)
    strangers = tuple(one for one in candidates if one.name not in bins)
    return Monitor(statistics, described, monitored, strangers, bins, aside, floats)


def _aside_name(position: int) -> str:
    return f"{OWN}watched_{position}"


def find(plan: Plan, client: MlflowClient, registry_uri: str | None, scratch: Path) -> tuple[Statistics | DataFrame, str] | None:
    """What a run is compared with, statistics or data that is not counted yet, and where it is from; None where there is nothing.

    Raises:
        ConfigError, InputError: as ``prepare``.
    """
    config = plan.config.drift
    if config.enabled is False:
        return None
    found = _reference(plan, client, registry_uri, scratch)
    if found is None:
        _refuse_none(config)
        log.info("drift: not watched, because the model carries no statistics of its training data (drift.reference)")
        return None
    return found


def _refuse_none(config: DriftConfig) -> None:
    """Raise ConfigError where drift is to be watched; it is not where nobody asked for it."""
    if config.enabled or config.on_drift == "fail":
        key = "on_drift: fail" if config.on_drift == "fail" else "enabled: true"
        raise ConfigError(
            f"drift.{key} needs something to compare with, and the model carries no statistics; set drift.reference, or keep some "
            "with the model (lakescore stats, lakescore register --training-set)"
        )


def all_monitored(plan: Plan, elements: int, known_labels: Collection[str] = ()) -> list[Monitored]:
    """All columns of a run that could be watched: features, labels and predictions.

    Args:
        plan: the run.
        elements: how long the model's arrays are, where it gives arrays.
        known_labels: columns that the reference has as labels, whether they are configured here or not.
    """
    # What is in whole files is no value to be counted.
    inputs = [one for one in plan.alignment.inputs if one.column is not None and one.column != plan.alignment.content]
    if plan.quarantine is not None:
        # A cast that fails is the row's own fault there, and must not be tried a second time where it would end the run.
        inputs = [one for one in inputs if (one.found is not None and is_same(one.found, one.feature.type)) or _is_in_frame(plan, one)]
    tolerant: list[Column] | None = [] if plan.quarantine is not None else None
    found = [Monitored(one.feature.name, "feature", _type_of(one), partial(one.expression, tolerant)) for one in inputs]
    taken = {one.name for one in found}
    labels = [name for name in plan.alignment.kept if name in (*plan.alignment.labels, *known_labels) and name not in taken]
    found += [Monitored(name, "label", plan.alignment.types[name], partial(column, name)) for name in labels]
    taken.update(labels)
    return found + [one for one in _predictions(plan.result_type, elements) if one.name not in taken]


def _type_of(one: Input) -> T.DataType:
    """What the model's input is here: a time with or without zone is left as it is found."""
    return one.found if isinstance(one.found, TIMESTAMPS) and isinstance(one.feature.type, TIMESTAMPS) else one.feature.type


def _is_in_frame(plan: Plan, one: Input) -> bool:
    """Whether the workers have the value as it is counted, cast already."""
    return plan.script is None and isinstance(one.feature.type, profile.PLAIN)


def _predictions(result: T.DataType, elements: int) -> list[Monitored]:
    if isinstance(result, T.StructType):
        return [Monitored(f"prediction.{f.name}", "prediction", f.dataType, partial(_field, f.name)) for f in result.fields]
    if isinstance(result, T.ArrayType) and 0 < elements <= _MOST_ELEMENTS:
        return [Monitored(f"prediction[{i}]", "prediction", result.elementType, partial(_element, i)) for i in range(elements)]
    return [Monitored("prediction", "prediction", result, partial(column, PREDICTION))]


def _field(name: str) -> Column:
    return column(PREDICTION).getField(name)


def _element(position: int) -> Column:
    return F.get(column(PREDICTION), F.lit(position))


def _place(name: str) -> tuple[str | None, int | None]:
    """The struct's field and the array's element that a prediction's name in the statistics means."""
    if element := _ELEMENT.fullmatch(name):
        return None, int(element.group(1))
    return (name.removeprefix("prediction.") if name.startswith("prediction.") else None), None


def _elements(reference: Statistics) -> int:
    found = [_ELEMENT.fullmatch(name) for name in reference.columns]
    return max((int(one.group(1)) + 1 for one in found if one), default=0)


def _is_aside(one: Monitored, plan: Plan) -> bool:
    """Whether the workers have not the value among the features as it is counted; a null integer that is quarantined is a 0 there."""
    is_filled = plan.quarantine is not None and one.kind == "integer"
    return one.role == "label" or (one.role == "feature" and (is_filled or not one.is_plain))


def beside_rows(df: DataFrame, monitor: Monitor) -> DataFrame:
    """Rows that have passed an entry script, counted in a pass of their own over what it gave back."""
    wanted = profile.columns_of(monitor.monitored, monitor.bins, f"{OWN}watched_")
    wide = df.withColumns({wanted.aliases[one.name]: one.value for one in monitor.monitored})
    safe = [f"c{i}" for i in range(len(df.columns))]
    fields = [T.StructField(alias, field.dataType) for alias, field in zip(safe, df.schema.fields, strict=True)]
    counted = wide.toDF(*safe, *wanted.aliases.values()).mapInArrow(
        counting.passing(wanted), T.StructType([*fields, T.StructField(COUNTED_FIELD, T.BinaryType())])
    )
    return counted.toDF(*df.columns, COUNTED_FIELD)


def observe(df: DataFrame, monitor: Monitor, observed: Observed) -> DataFrame:
    """Collect what the tasks counted, and the nulls that pandas does not tell from NaN.

    Args:
        df: with ``COUNTED_FIELD``.
        monitor: what is watched.
        observed: where it goes.
    """
    # Text, because Spark 4.0 has no lists here.
    counted = F.concat_ws(",", F.collect_list(F.base64(column(COUNTED_FIELD))))
    nulls = F.concat_ws(",", *[F.count_if(column(one).isNull()).cast("string") for one in monitor.floats.values()])
    return observed.watch(df, counted.alias("counted"), nulls.alias("nulls"))


def statistics_of(monitor: Monitor, observed: Mapping[str, Any], described: str, rows: int) -> Statistics:
    """The batch's statistics, of what its tasks counted.

    Args:
        monitor: what was watched.
        observed: what ``observe`` collected: what each task counted in base64, and the nulls of each of ``monitor.floats``, with commas.
        described: what the batch is, for people.
        rows: that were read.
    """
    counts = counting.add_up(monitor.bins, map(base64.b64decode, filter(None, observed["counted"].split(","))))
    for name, nulls in zip(monitor.floats, filter(None, observed["nulls"].split(",")), strict=True):
        counts[name].nulls = int(nulls)
    return profile.from_counts(counts, (*monitor.monitored, *monitor.strangers), monitor.bins, described, rows)


def _reference(plan: Plan, client: MlflowClient, registry_uri: str | None, scratch: Path) -> tuple[Statistics | DataFrame, str] | None:
    given = plan.config.drift.reference
    if given is None:
        kept = plan.model.path / FILE
        if not kept.is_file():
            return None
        try:
            return from_json(kept.read_text(encoding="utf-8", errors="replace"), f"{FILE} of {plan.model.uri}"), plan.model.uri
        except InputError as error:
            if plan.config.drift.enabled or plan.config.drift.on_drift == "fail":
                raise
            # Nobody asked for them, and the batch is as good without.
            log.warning("drift: the model's statistics cannot be used: %s", error)
            return None
    where = f"drift.reference: {redact(given)}"
    found = references.stored(given, client, registry_uri, scratch / "reference", where)
    return (found if found is not None else references.read(plan.spark, given, where)), redact(given)


def _of_data(plan: Plan, df: DataFrame, described: str) -> Statistics:
    """The statistics of data as it is scored: the run's columns, where the reference has them."""
    rename = plan.config.columns.rename
    df = df.toDF(*[rename.get(name, name) for name in df.columns])
    made_of = {one.feature.name: one.column for one in plan.alignment.inputs}
    written = _written(plan)
    found = []
    for one in all_monitored(plan, 0):
        name = written.get(one.name) if one.role == "prediction" else made_of.get(one.name) or one.name
        if name in df.columns:
            found.append(profile.of_reference(one.name, one.role, df.schema[str(name)].dataType, one.type, partial(column, str(name))))
    return profile.statistics_of(df, found, described)


def _written(plan: Plan) -> dict[str, str]:
    """The columns that are written, by the predictions' names in statistics; none of one that has no column of its own."""
    output = plan.config.output
    is_one_struct = isinstance(output.prediction, str) and isinstance(plan.result_type, T.StructType)
    if output.classes.labels or is_one_struct:
        return {}
    return dict(zip((one.name for one in _predictions(plan.result_type, 0)), plan.prediction, strict=True))
