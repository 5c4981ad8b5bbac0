"""A classifier's probabilities in, a probability and a label out, by the section ``output.classes``.

| prediction                              | labels    | probability              | label                                            |
| --------------------------------------- | --------- | ------------------------ | ------------------------------------------------ |
| a number in [0, 1]                      | two       | the number               | the second from ``threshold`` on, else the first |
| an array, or a struct, of two numbers   | two       | the second number        | the same                                         |
| an array, or a struct, of more          | as many   | the largest number       | the first one that has it                        |

A null or NaN among the numbers gives no label (null). What is no probability fails the run; but where only the label is written
(``probability: null``) of more than two classes, the numbers may be any scores, such as a network's logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.config import ClassesConfig
from lakescore.errors import ConfigError, listing
from lakescore.failures import mark

_NUMBERS = (T.DoubleType, T.FloatType)
# Sums of rounded floats pass 1 by a little.
_ROUNDING = 1e-6


def check(config: ClassesConfig, result: T.DataType) -> None:
    """Refuse, before anything is scored, a prediction that cannot hold a probability for each label.

    Raises:
        ConfigError: naming both.
    """
    wanted = len(config.labels)
    if isinstance(result, _NUMBERS):
        if wanted != 2:
            raise ConfigError(
                f"output.classes.labels: lists {wanted} ({listing(config.labels)}), and the model gives one number for each row, which "
                "tells two classes apart; set model.predict_method=predict_proba, where the model has it"
            )
        return
    if isinstance(result, T.StructType) and all(isinstance(field.dataType, _NUMBERS) for field in result.fields):
        if len(result.fields) != wanted:
            raise ConfigError(
                f"output.classes.labels: lists {wanted} ({listing(config.labels)}), and the model has {len(result.fields)} output(s) "
                f"({listing(result.names)})"
            )
        return
    if not (isinstance(result, T.ArrayType) and isinstance(result.elementType, _NUMBERS)):
        raise ConfigError(
            f"output.classes.labels: needs probabilities, and the prediction is {result.simpleString()}; set "
            "model.predict_method=predict_proba, or leave the labels out"
        )


def columns(config: ClassesConfig, prediction: Column, result: T.DataType) -> list[Column]:
    """The two columns, or the label alone, under their configured names."""
    values = _values(config, prediction, result)
    if len(config.labels) == 2:
        probability = values[-1]
        is_second = probability >= F.lit(config.threshold)
        label = F.when(is_second, F.lit(config.labels[1])).otherwise(F.lit(config.labels[0]))
    else:
        probability = F.greatest(*values)
        pairs = list(zip(values, config.labels, strict=True))
        label = reduce(lambda rest, pair: F.when(pair[0] == probability, F.lit(pair[1])).otherwise(rest), reversed(pairs), F.lit(None))
        # greatest() passes nulls over.
        probability = F.when(_all(values, lambda value: value.isNotNull()), probability)
    labelled = F.when(_all(values, lambda value: value.isNotNull() & ~F.isnan(value)), label)
    written = [] if config.probability is None else [probability.alias(config.probability)]
    return [*written, labelled.cast("string").alias(config.label)]


def _all(values: list[Column], test: Callable[[Column], Column]) -> Column:
    return reduce(lambda a, b: a & b, map(test, values))


def _values(config: ClassesConfig, prediction: Column, result: T.DataType) -> list[Column]:
    """The numbers of a row, each checked to be a probability unless any scores will do."""
    are_scores = config.probability is None and len(config.labels) > 2
    return [value if are_scores else _probability(value, len(config.labels)) for value in _numbers(config, prediction, result)]


def _numbers(config: ClassesConfig, prediction: Column, result: T.DataType) -> list[Column]:
    if isinstance(result, T.StructType):
        return [prediction.getField(name) for name in result.names]
    if not isinstance(result, T.ArrayType):
        return [prediction]
    wanted = len(config.labels)
    before, after = mark(
        "model", f"output.classes.labels: lists {wanted} ({listing(config.labels)}), and the model gave \0 number(s) for a row"
    ).split("\0")
    wrong = F.raise_error(F.concat(F.lit(before), F.size(prediction).cast("string"), F.lit(after)))
    sized = F.when(prediction.isNull() | (F.size(prediction) == wanted), prediction).otherwise(wrong)
    return [F.get(sized, F.lit(i)) for i in range(wanted)]


def _probability(value: Column, classes: int) -> Column:
    scores = "; of scores take the largest one's label: output.classes.probability=null" if classes > 2 else ""
    before, after = mark(
        "model", "output.classes.labels: needs probabilities, and the model gave \0; set model.predict_method=predict_proba, or leave the "
        f"labels out{scores}",
    ).split("\0")  # fmt: skip
    good = value.isNull() | F.isnan(value) | value.between(-_ROUNDING, 1 + _ROUNDING)
    return F.when(good, value).otherwise(F.raise_error(F.concat(F.lit(before), value.cast("string"), F.lit(after))))
