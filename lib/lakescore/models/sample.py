"""A sample of data, or columns as text, in; the signature of a model out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import Model, infer_signature
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from lakescore import storage
from lakescore.errors import ConfigError, InputError, ModelError, did_you_mean, listing
from lakescore.models.raw import INPUT_NAMES
from lakescore.models.told import output_schema, tensor_schema

# A signature needs types, not all the data.
SAMPLE_ROWS = 1000
_READERS = (".parquet", ".csv", ".json", ".jsonl", ".ndjson")
# Spark's names of the types that MLflow has.
_TYPES = {
    "double": DataType.double, "float": DataType.float, "real": DataType.float, "long": DataType.long, "bigint": DataType.long,
    "int": DataType.integer, "integer": DataType.integer, "string": DataType.string, "boolean": DataType.boolean,
    "binary": DataType.binary, "timestamp": DataType.datetime,
}  # fmt: skip


def can_read(path: str) -> bool:
    """Whether ``read_sample`` could read it, as far as its name tells."""
    file = Path(storage.local_path(path))
    if file.is_dir():
        return not (file / "_delta_log").is_dir() and any(file.rglob("*.parquet"))
    return file.is_file() and file.suffix.lower() in _READERS


def read_sample(path: str, option: str) -> pd.DataFrame:
    """The first rows of a Parquet, CSV or JSON file (records, or one JSON object per line), or of a folder of Parquet files.

    Args:
        path: where it is.
        option: how errors name it.

    Raises:
        InputError: there is no such file, it cannot be read, or it has no rows.
    """
    file = Path(storage.absolute(path))
    if not file.exists():
        siblings = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise InputError(f"{option}: {path} does not exist.{did_you_mean(file.name, siblings)}")
    suffix = ".parquet" if file.is_dir() else file.suffix.lower()
    if suffix not in _READERS:
        raise InputError(f"{option}: {path}: expected a file that ends in {', '.join(_READERS)}")
    try:
        frame = _read(file, suffix)
    except Exception as error:
        raise InputError(f"{option}: {path} cannot be read: {type(error).__name__}: {error}") from error
    if frame.empty:
        raise InputError(f"{option}: {path} has no rows")
    return frame


def _read(file: Path, suffix: str) -> pd.DataFrame:
    if suffix == ".parquet":
        import pyarrow.dataset

        return pyarrow.dataset.dataset(str(file), format="parquet").head(SAMPLE_ROWS).to_pandas()  # type: ignore[no-any-return]
    if suffix == ".csv":
        return pd.read_csv(file, nrows=SAMPLE_ROWS)
    with file.open(encoding="utf-8") as stream:
        is_array = stream.read(64).lstrip().startswith("[")
    return pd.read_json(file) if is_array and suffix == ".json" else pd.read_json(file, lines=True, nrows=SAMPLE_ROWS)


def by_sample(folder: Path, path: str, option: str, labels: Sequence[str], label: str) -> ModelSignature:
    """The signature that a sample and the model's predictions for it show.

    Args:
        folder: the MLflow model.
        path: of the sample: rows as the model will get them, with or without its labels.
        option: how errors name the sample.
        labels: columns that are known outcomes and no inputs.
        label: how errors name the model.

    Raises:
        InputError: the sample cannot be read, or has not the columns.
        ModelError: the model does not predict for it.
    """
    sample = read_sample(path, option)
    for name in labels:
        if name not in sample.columns:
            raise InputError(f"--label: {option} has no column {name!r}.{did_you_mean(name, list(map(str, sample.columns)))}")
    features = sample.drop(columns=list(labels))
    names = _known_names(Model.load(str(folder)))
    if names is not None:
        missing = [name for name in names if name not in features.columns]
        if missing:
            raise InputError(
                f"{option}: it has not the model's input(s) {listing(map(repr, missing))}; it has {listing(features.columns, 12)}"
            )
        features = features[names]
    if features.shape[1] == 0:
        raise InputError(f"{option}: no column is left for the model; look at --label")
    try:
        raw = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True).predict(features)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Hint: Inferred schema contains integer")  # a null in one is refused by name
            inputs = infer_signature(features).inputs
    except Exception as error:
        # MLflow shows the whole sample before it says what is wrong with it.
        text = str(error).rpartition(". Error: ")[2]
        reason = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
        raise ModelError(
            f"{label} does not predict for {option} ({listing(features.columns, 12)}): {type(error).__name__}: {reason}; drop what is no "
            "feature by --label"
        ) from error
    return ModelSignature(inputs=inputs, outputs=_outputs(raw, len(features)))


def _known_names(metadata: Model) -> list[str] | None:
    """The inputs that the model names itself, in its order."""
    signature = metadata.signature
    if signature is not None and signature.inputs is not None and signature.inputs.has_input_names():
        return [str(name) for name in signature.inputs.input_names()]
    names = (metadata.metadata or {}).get(INPUT_NAMES)
    return list(names) if names else None


def _outputs(raw: Any, rows: int) -> Schema | None:
    if isinstance(raw, dict):
        return tensor_schema({str(name): np.asarray(value) for name, value in raw.items()}, rows)
    if isinstance(raw, pd.DataFrame) and not all(isinstance(name, int) for name in raw.columns):
        outputs: Schema | None = infer_signature(raw.head(0), raw).outputs
        return outputs
    return output_schema(raw)


def by_columns(columns: str, result: str | None) -> ModelSignature:
    """The signature that ``"a double, b string"`` and the result's type say.

    Raises:
        ConfigError: a type is none of MLflow's.
    """
    specs: list[Any] = []
    for text in re.split(r",(?![^<]*>)", columns):
        found = re.fullmatch(r"\s*(?:`(?P<quoted>[^`]+)`|(?P<plain>\S+))\s*[\s:]\s*(?P<type>\S.*?)\s*", text)
        if not found:
            raise ConfigError(f'--columns: got {text.strip()!r}; expected a name and a type, as in "a double, `b c` string"')
        specs.append(ColSpec(_type(found["type"], "--columns"), found["quoted"] or found["plain"].rstrip(":")))
    names = [spec.name for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--columns: {twice!r} is listed twice")
    outputs = Schema([ColSpec(_type(result, "--result"))]) if result is not None else None
    return ModelSignature(inputs=Schema(specs), outputs=outputs)


def by_result(result: str, known: ModelSignature | None) -> ModelSignature:
    """The signature that is known, with another result."""
    inputs = known.inputs if known is not None else None
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(_type(result, "--result"))]))


def _type(text: str, option: str) -> Any:
    plain = text.strip().lower()
    array = re.fullmatch(r"array\s*<(.*)>", plain)
    if array:
        return Array(_type(array[1], option))
    if plain not in _TYPES:
        raise ConfigError(
            f"{option}: got the type {text!r}; expected one of {', '.join(_TYPES)}, or array<...>.{did_you_mean(plain, _TYPES)}"
        )
    return _TYPES[plain]
