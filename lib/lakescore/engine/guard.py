"""Runs on executors: the model behind a check that it does what it declares. A pandas DataFrame in, predictions out.

This file and those that it imports are copied into the folder that Spark ships (``bundle.py``) and loaded there, by MLflow as the
model's loader module or by ``fast_worker``, so they may import nothing else of Lakescore, and run under ``env_manager: virtualenv``
too. ``mlflow.pyfunc.spark_udf`` converts silently: it drops columns, turns numbers into text and None into 'None'; whatever it would
change is refused here, naming both sides.

Results leave in the form that spark_udf passes on unchanged: a Series for scalars, a frame for structs, and a frame with the
one column ``value`` for arrays and maps (spark_udf would pad ragged ones).
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd

from .isolation import NUMPY_TYPE, VALUE_FIELD, first_bad_row, isolate, reason, shown
from .threads import hold

# Columns beside the features: what is wrong with the row already, and its keys. No model sees them.
OWN = "__lakescore_"
PROBLEM = f"{OWN}problem"
KEY = f"{OWN}key_"
# The one process-wide state: Spark reuses its Python workers, and a model is loaded once per worker, not once per task.
_loaded: dict[str, Any] = {}

_INTEGERS = {"byte": 8, "short": 16, "integer": 32, "long": 64}
_FLOATS = {"float": 32, "double": 64}
# Doubles hold every integer up to here.
_EXACT_DOUBLE = 2**53


class GuardError(RuntimeError):
    """A message for the driver; ``lakescore.failures`` finds it by its marks. A ``fatal`` one is no single row's fault."""

    def __init__(self, kind: str, text: str, fatal: bool = False) -> None:
        self.fatal = fatal
        self.kind, self.text = f"{kind.capitalize()}Error", " ".join(text.split())
        super().__init__(f"[lakescore:{kind}] {self.text} [/lakescore]")


def _load_pyfunc(path: str) -> Guard:
    """MLflow's entry point of a loader module."""
    if path not in _loaded:
        for other in _loaded:
            _forget_modules(other)
        _loaded.clear()
        _loaded[path] = Guard(path)
    guard: Guard = _loaded[path]
    return guard


def _forget_modules(path: str) -> None:
    """Take back what the model before was loaded with: a worker outlives a run, and both may have brought a ``net.py``."""
    below = os.path.join(path, "")
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(below):
            del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if not folder.startswith(below)]


class Guard:
    """The wrapped model: same ``predict``, checked on both sides.

    Attributes:
        result: the JSON value of the predictions' Spark type.
    """

    def __init__(self, path: str) -> None:
        with open(os.path.join(path, "contract.json"), encoding="utf-8") as file:
            contract = json.load(file)
        self.result = contract["result"]
        self._integers: list[str] = contract["integers"]
        self._absent: list[str] = contract["absent"]
        self._keys: list[str] = contract["keys"]
        self._isolates: bool = contract["isolates"]
        self._failure = os.path.join(_workers_folder(path), f"lakescore-{contract['run']}.failed")
        self._tensor: dict[str, Any] | None = contract.get("tensor")
        threads: int | None = contract.get("threads")
        device: str | None = contract.get("device")
        # Before the model's libraries are loaded, which then read the environment, and after them.
        hold(threads)
        if device is not None:
            _require_device(device)
        settings = {"device": device} if device is not None else None
        try:
            self._model = mlflow.pyfunc.load_model(os.path.join(path, "model"), suppress_warnings=True, model_config=settings)
        except BaseException as error:
            missing = _missing_module(error)
            why = _say(error) if missing in (None, error) else f"{_say(error)} ({_say(missing)})"
            raise GuardError("model", f"model.uri: the model cannot be loaded on a worker: {why}") from error
        hold(threads)
        self._names = _names_of(self._model)
        if contract["method"]:
            self._model = _with_method(self._model, contract["method"])

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Check the rows, call the model, check the predictions."""
        features = model_input.drop(columns=[name for name in model_input.columns if str(name).startswith(OWN)])
        if self._isolates:
            return isolate(features, model_input[PROBLEM], lambda part: self._predict(part, params), self.result)
        return self.answer(features, params, lambda row: {name: model_input[f"{KEY}{name}"].iloc[row] for name in self._keys})

    def answer(self, features: pd.DataFrame, params: dict[str, Any] | None, keys: Callable[[int], dict[str, Any]]) -> Any:
        """Call the model, where a row that fails is the end.

        Args:
            features: the model's inputs alone.
            params: of ``predict``.
            keys: names and values of the key columns of the row at a position, for the message.
        """
        if os.path.exists(self._failure):
            # Spark tries a failed task again; a model that failed once fails again, and the hour until then is spared.
            with open(self._failure, encoding="utf-8") as file:
                raise GuardError("model", file.read())
        try:
            return self._predict(features, params)
        except GuardError:
            raise
        except Exception as error:
            raise self._named(error, features, keys, params) from error

    def _named(
        self, error: Exception, features: pd.DataFrame, keys: Callable[[int], dict[str, Any]], params: dict[str, Any] | None
    ) -> GuardError:
        """The model's own error, with the row that causes it where one alone does: by its keys, else by its features."""
        where = ""
        found = first_bad_row(features, lambda part: self._predict(part, params))
        if found is not None and not isinstance(found[1], GuardError):
            position, error = found
            # By column: a row of a frame would make its integers floats.
            where = f" (row {shown(keys(position) or {str(name): values.iloc[position] for name, values in features.items()})})"
        text = f"the model failed to predict: {_say(error)}{where}"
        with contextlib.suppress(OSError), open(self._failure, "w", encoding="utf-8") as file:
            file.write(text)
        return GuardError("model", text)

    def _predict(self, features: pd.DataFrame, params: dict[str, Any] | None) -> Any:
        """Conformed predictions; what the model raises comes out as it is."""
        refuse_nulls(features, self._integers)
        rows = len(features)
        given: Any = features.drop(columns=self._absent) if self._absent else features
        if self._names:
            given = given.rename(columns=self._names)
        if self._tensor:
            given = as_tensor(given, self._tensor["shape"], self._tensor["type"])
        process = os.getpid()
        try:
            raw = self._model.predict(given, params=params)
        except Exception:
            raise
        except BaseException as error:
            # SystemExit and its like would end the worker, and Spark would say that it crashed.
            raise RuntimeError(f"it raised {type(error).__name__}({' '.join(reason(error))})") from error
        finally:
            if os.getpid() != process:
                os._exit(0)  # a model that forks: its child must not answer and write as a second worker
        try:
            return conform(in_order(raw, features.index), self.result, rows)
        except GuardError:
            raise
        except Exception as error:
            found = type(raw).__name__
            raise GuardError(
                "model", f"the model returned {found}, which is no prediction of type {_name(self.result)}: {_say(error)}"
            ) from error


def _names_of(model: Any) -> dict[str, Any]:
    """The inputs whose names are no text, as of a frame that was made of an array: MLflow asks for them as they are."""
    schema = model.metadata.get_input_schema() if model.metadata is not None else None
    names = schema.input_names() if schema is not None and schema.has_input_names() else []
    return {str(name): name for name in names if not isinstance(name, str)}


def in_order(raw: Any, rows: pd.Index) -> Any:
    """Predictions whose labels are those of the rows in another order, as of a model that sorts or groups them, in the rows' order.

    Pandas goes by the labels too where such a Series becomes a column. Other labels say nothing of the rows, and the position counts.
    """
    if isinstance(raw, dict):
        return {name: in_order(values, rows) for name, values in raw.items()}
    if not isinstance(raw, (pd.Series, pd.DataFrame)) or len(raw) != len(rows) or raw.index.equals(rows):
        return raw
    labels = raw.index
    is_theirs = pd.api.types.is_integer_dtype(labels.dtype) and labels.is_unique and labels.isin(rows).all()
    return raw.reindex(rows) if is_theirs else raw


def _missing_module(error: BaseException | None) -> ModuleNotFoundError | None:
    """The import that failed, of which MLflow makes an error of its own; the driver looks for its words."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    return error


def _require_device(device: str) -> None:
    """Without it PyTorch would say something about its own build, or another GPU would be taken."""
    import torch

    if not device.startswith("cuda"):
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found <= int(device.partition(":")[2] or 0):
        raise GuardError(
            "model",
            f"model.device: {device} is wanted, and PyTorch finds {found} CUDA device(s) on a worker; set model.device=cpu, or null",
        )


def _workers_folder(path: str) -> str:
    """A folder that the workers of one host share, and that goes with them: that of Spark's files, else the one that the model is in."""
    if "pyspark" in sys.modules:  # else it is a worker of a pool, or in an environment of its own
        with contextlib.suppress(Exception):
            from pyspark import SparkFiles

            return str(SparkFiles.getRootDirectory())
    return os.path.dirname(os.path.abspath(path))


def _with_method(model: Any, method: str) -> Any:
    """The same pyfunc, schema enforcement included, with another method of the model behind it."""
    impl = model._model_impl
    if hasattr(impl, method) and not hasattr(impl, "python_model"):
        return mlflow.pyfunc.PyFuncModel(model.metadata, impl, predict_fn=method)
    native = impl.python_model if hasattr(impl, "python_model") else model.get_raw_model()
    function = getattr(native, method, None)
    if not callable(function):
        known = [name for name in dir(native) if not name.startswith("_") and callable(getattr(native, name, None))]
        near = [name for name in known if name.startswith("predict") or name == "decision_function"] or known[:8]
        raise GuardError("model", f"model.predict_method: {type(native).__name__} has no method {method!r}; it has {', '.join(near)}")
    return mlflow.pyfunc.PyFuncModel(model.metadata, _Method(function, getattr(impl, "context", None)))


class _Method:
    """One method of the native model as MLflow calls an implementation."""

    def __init__(self, function: Any, context: Any) -> None:
        self._function = function
        names = list(inspect.signature(function).parameters)
        self._leading = (context,) if context is not None and names[:1] == ["context"] else ()
        self._takes_params = "params" in names

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        if self._takes_params:
            return self._function(*self._leading, data, params=params)
        if params:
            raise GuardError("model", f"model.params: the method {self._function.__name__} takes no params", fatal=True)
        return self._function(*self._leading, data)


def refuse_nulls(features: pd.DataFrame, integers: list[str]) -> None:
    """Pandas has no integer null: one null would turn the whole batch into floats, so it is refused by name."""
    for name in integers:
        nulls = int(features[name].isna().sum()) if name in features else 0
        if nulls:
            raise GuardError(
                "input",
                f"column {name!r}: {nulls} null value(s) in a batch, and the model takes it as an integer, which cannot be null in "
                "pandas; fill it, filter those rows, or make it a double: by columns.cast for a model without a signature, else by logging "
                "the model with this input as double",
            )


def as_tensor(features: pd.DataFrame, shape: list[int], kind: str) -> np.ndarray[Any, Any]:
    """The one column of flat arrays as the array of the model's shape and type that it was trained with.

    Args:
        features: one column; each value is one row's array, flattened in C order.
        shape: one row's.
        kind: numpy's name of the type.

    Raises:
        GuardError: a null, another number of values, or values that the type does not hold; both are named.
    """
    name, values = features.columns[0], features.iloc[:, 0]
    nulls = int(values.isna().sum())
    if nulls:
        raise GuardError("input", f"column {name!r}: {nulls} null value(s) in a batch; the model takes an array of shape {_shape(shape)}")
    arrays = [np.asarray(value) for value in values]
    size = int(np.prod(shape))
    odd = next((array for array in arrays if array.shape != (size,)), None)
    if odd is not None:
        raise GuardError(
            "input", f"column {name!r}: an array of {odd.size} value(s), and the model takes the shape {_shape(shape)}, which is {size}"
        )
    stacked = np.stack(arrays) if arrays else np.empty((0, size), kind)
    if not np.can_cast(stacked.dtype, kind, "same_kind"):
        raise GuardError(
            "input", f"column {name!r}: arrays of {stacked.dtype}, and the model takes {kind}; a null in an array is no number"
        )
    return stacked.reshape(len(arrays), *shape).astype(kind, copy=False)


def _shape(shape: list[int]) -> str:
    return f"(-1, {', '.join(map(str, shape))})"


def conform(raw: Any, declared: Any, rows: int) -> Any:
    """Check predictions against the declared Spark type and bring them into the form that spark_udf leaves alone.

    Args:
        raw: what the model returned.
        declared: the JSON value of a Spark type.
        rows: how many rows the model was given.

    Raises:
        GuardError: another number of rows or another type, with both named.
    """
    kind = declared if isinstance(declared, str) else declared["type"]
    raw = _unwrapped(raw, kind)
    found = _length(raw, rows)
    if found != rows:
        text = f"the model returned {found} prediction(s) for a batch of {rows} row(s); it must return one for each"
        # In batches of one row such a model would seem to be right.
        raise GuardError("model", text, fatal=True)
    if kind == "struct":
        return _conform_struct(raw, declared)
    if isinstance(declared, str):
        return _conform_scalar(_single_column(raw, declared), declared, "")
    return pd.DataFrame({VALUE_FIELD: _conform_nested(raw, declared, "")})


def _unwrapped(raw: Any, kind: str) -> Any:
    """Dense instead of sparse, the only output instead of a mapping of one, and a list of one instead of a scalar."""
    if hasattr(raw, "toarray"):
        raw = raw.toarray()
    if isinstance(raw, dict):
        if kind not in ("struct", "map") and len(raw) == 1:
            return _unwrapped(next(iter(raw.values())), kind)
        return {name: [value] if _is_single(value) else value for name, value in raw.items()}
    if isinstance(raw, (tuple, pd.Index)):
        return list(raw)
    return [raw.item() if isinstance(raw, np.ndarray) else raw] if _is_single(raw) else raw


def _is_single(value: Any) -> bool:
    return np.isscalar(value) or value is None or not hasattr(value, "__len__") or getattr(value, "shape", None) == ()


def _length(raw: Any, rows: int) -> int:
    if isinstance(raw, dict):
        lengths = [len(value) for value in raw.values()]
        return next((length for length in lengths if length != rows), lengths[0]) if lengths else 0
    return len(raw)


def _conform_struct(raw: Any, declared: dict[str, Any]) -> pd.DataFrame:
    fields = {field["name"]: field["type"] for field in declared["fields"]}
    names, columns = _named_columns(raw, list(fields))
    if sorted(names) != sorted(fields):
        raise GuardError("model", f"the model declares the outputs {', '.join(fields)} and returned {', '.join(names)}")
    by_name = dict(zip(names, columns, strict=True))
    frame: pd.DataFrame = pd.DataFrame({name: _conform_field(by_name[name], kind, name) for name, kind in fields.items()})
    return frame


def _named_columns(raw: Any, fields: list[str]) -> tuple[list[str], list[Any]]:
    """The outputs with their names; a plain matrix has as many columns as there are fields, in their order."""
    if isinstance(raw, np.ndarray) and raw.ndim == 2 and raw.shape[1] == len(fields):
        return fields, list(raw.T)
    if isinstance(raw, list) and raw and all(isinstance(row, dict) for row in raw):
        # A frame would fill what one row lacks with NaN.
        odd = next((row for row in raw if set(row) != set(fields)), raw[0])
        return [str(name) for name in odd], [[row.get(name) for row in raw] for name in odd]
    if not isinstance(raw, dict):
        frame = pd.DataFrame(raw)
        return [str(name) for name in frame.columns], [frame.iloc[:, i] for i in range(frame.shape[1])]
    return [str(name) for name in raw], list(raw.values())


def _conform_field(values: Any, declared: Any, field: str) -> pd.Series:
    if isinstance(declared, str):
        return _conform_scalar(_single_column(values, declared), declared, field)
    return _conform_nested(values, declared, field)


def _single_column(raw: Any, declared: str) -> pd.Series:
    """Predictions as one Series; several columns where one is declared would lose the others."""
    if isinstance(raw, pd.Series):
        return raw.reset_index(drop=True)
    if isinstance(raw, np.ndarray) and raw.ndim > 2:
        _refuse(declared, f"an array of shape {raw.shape}", "")
    if not isinstance(raw, (pd.DataFrame, np.ndarray, list, dict)):
        _refuse(declared, type(raw).__name__, "")
    frame = raw if isinstance(raw, pd.DataFrame) else pd.DataFrame(raw, columns=None if len(raw) else [0])
    if frame.shape[1] != 1:
        shown = ", ".join(map(str, frame.columns[:8]))
        raise GuardError(
            "model",
            f"the model declares one output of type {declared} and returned {frame.shape[1]} columns ({shown}); "
            "set model.result_type to a struct or an array to keep them all",
        )
    only: pd.Series = frame.iloc[:, 0].reset_index(drop=True)
    return only


def _conform_scalar(values: pd.Series, declared: str, field: str) -> pd.Series:
    if declared == "string":
        return _conform_text(values, field)
    wanted = NUMPY_TYPE.get(declared)
    if wanted is not None and values.dtype == object and len(values):
        # Rules often fill a Series of objects; those of one kind without nulls become what they are.
        values = values if values.isna().any() else values.infer_objects()
    if len(values) == 0 and values.dtype.kind == "O":
        return values.astype(np.dtype(wanted or "O"))
    if wanted is not None and isinstance(values.dtype, pd.api.extensions.ExtensionDtype):
        values = _without_extension(values, declared, field)
    kind, bits = values.dtype.kind, int(getattr(values.dtype, "itemsize", 0)) * 8
    if declared in _FLOATS:
        wide = 53 if declared == "double" else 24
        fits = (kind == "f" and bits <= _FLOATS[declared]) or (kind in "iu" and _within(values, 2**wide))
    elif declared in _INTEGERS:
        fits = (kind == "i" and bits <= _INTEGERS[declared]) or (kind == "u" and bits < _INTEGERS[declared])
    elif declared == "boolean":
        fits = kind == "b"
    elif declared in ("timestamp", "timestamp_ntz"):
        fits = kind == "M"
    elif declared == "binary":
        fits = kind in "OS" and all(isinstance(value, (bytes, bytearray)) or value is None for value in values)
    else:
        fits = kind == "O"
    if not fits:
        _refuse(declared, _describe(values), field)
    # spark_udf leaves a column of the very type alone, and drops some of those that would fit.
    return values if wanted is None else values.astype(np.dtype(wanted))


def _without_extension(values: pd.Series, declared: str, field: str) -> pd.Series:
    """Pandas' nullable and Arrow types as numpy's, where a null is NaN in floats and nothing elsewhere."""
    plain = getattr(values.dtype, "numpy_dtype", None)
    if plain is None or plain.kind not in "biuf":
        return values
    nulls = int(values.isna().sum())
    if not nulls:
        return values.astype(plain)
    if declared not in _FLOATS:
        where = f"output {field!r}: " if field else ""
        raise GuardError("model", f"{where}the model returned {nulls} null(s) among predictions of type {declared}, which cannot be null")
    if plain.kind in "iu" and not _within(values.dropna(), _EXACT_DOUBLE):
        return values
    return values.astype(plain if plain.kind == "f" else np.dtype("float64"))


def _within(values: pd.Series, limit: int) -> bool:
    return len(values) == 0 or (int(values.max()) <= limit and int(values.min()) >= -limit)


def _conform_text(values: pd.Series, field: str) -> pd.Series:
    values = values.astype(object)
    odd = [value for value in values if not isinstance(value, str)]
    if not odd:
        return values
    others = [value for value in odd if not _is_null(value)]
    if others:
        _refuse("string", _types(others), field)
    where = f"output {field!r}: " if field else ""
    raise GuardError(
        "model",
        f"{where}the model returned {len(odd)} null(s) among its text predictions, which mlflow.pyfunc.spark_udf would write as "
        "the text 'None'; make it return a text for every row",
    )


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _conform_nested(raw: Any, declared: dict[str, Any], field: str) -> pd.Series:
    """Arrays and maps: every row is checked, because spark_udf would convert each on its own."""
    values = raw
    if isinstance(raw, pd.DataFrame):
        is_wide = raw.shape[1] > 1 or raw.dtypes.iloc[0].kind != "O"
        if is_wide and isinstance(declared.get("elementType"), str):
            for name in raw.columns:
                _conform_scalar(raw[name], declared["elementType"], field)
        values = list(raw.to_numpy()) if is_wide else list(raw.iloc[:, 0])
    elif isinstance(raw, pd.Series):
        values = list(raw)
    elif not isinstance(raw, (list, np.ndarray)):
        _refuse(_name(declared), type(raw).__name__, field)
    # A row without an array is null, which Spark can hold.
    is_flat = declared["type"] == "array" and isinstance(declared["elementType"], str)
    _check(values if isinstance(values, np.ndarray) else [v for v in values if not (is_flat and v is None)], declared, field)
    result: pd.Series = pd.Series(list(values), dtype=object)
    return result


def _check(values: Any, declared: Any, field: str) -> None:
    """Check all values at one level of a nested type, then what is inside them, all at once."""
    if isinstance(declared, str):
        _check_scalars(values, declared, field)
    elif declared["type"] == "array":
        _expect(values, (list, tuple, np.ndarray), declared, field)
        for inner in _inside(values):
            _check(inner, declared["elementType"], field)
    elif declared["type"] == "map":
        _expect(values, (dict,), declared, field)
        _check([key for value in values for key in value], declared["keyType"], field)
        _check([item for value in values for item in value.values()], declared["valueType"], field)
    else:
        _expect(values, (dict,), declared, field)
        names = [inner["name"] for inner in declared["fields"]]
        odd = next((value for value in values if set(value) != set(names)), None)
        if odd is not None:
            raise GuardError("model", f"the model declares the outputs {', '.join(names)} and returned {', '.join(map(str, odd))}")
        for inner in declared["fields"]:
            _check([value[inner["name"]] for value in values], inner["type"], field)


def _expect(values: Any, types: tuple[type, ...], declared: dict[str, Any], field: str) -> None:
    if isinstance(values, np.ndarray) and values.ndim > 1 and np.ndarray in types:
        return
    odd = next((value for value in values if not isinstance(value, types)), None)
    if odd is not None or any(value is None for value in values):
        _refuse(_name(declared), _types([odd]), field)


def _inside(values: Any) -> list[Any]:
    """What the arrays hold: one numpy array for each element type among numpy arrays, one list of all else."""
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return [values.reshape(-1, *values.shape[2:])]
    arrays: dict[Any, list[np.ndarray[Any, Any]]] = {}
    others: list[Any] = []
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype.kind != "O":
            arrays.setdefault((value.dtype, value.shape[1:]), []).append(value)
        else:
            others.extend(value)
    return [np.concatenate(same) for same in arrays.values()] + ([others] if others else [])


def _check_scalars(values: Any, declared: str, field: str) -> None:
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        if values.ndim > 1:
            _refuse(declared, f"array of {values.dtype}", field)
        _conform_scalar(pd.Series(values), declared, field)
        return
    by_type: dict[type, list[Any]] = {}
    for value in values:
        by_type.setdefault(type(value), []).append(value)
    for kind, same in by_type.items():
        if issubclass(kind, (list, tuple, np.ndarray)):
            _refuse(declared, f"array of {kind.__name__}", field)
        plain = issubclass(kind, (bool, int, float, np.generic)) and declared != "string"
        _conform_scalar(pd.Series(np.asarray(same) if plain else same, dtype=None if plain else object), declared, field)


def _refuse(declared: str, found: str, field: str) -> None:
    where = f"output {field!r}: " if field else ""
    raise GuardError(
        "model",
        f"{where}the model declares predictions of type {declared} and returned {found}; log it with a signature that fits, "
        "or set model.result_type",
    )


def _describe(values: pd.Series) -> str:
    return _types(list(values)) if values.dtype == object and len(values) else str(values.dtype)


def _types(values: list[Any]) -> str:
    return " and ".join(dict.fromkeys(type(value).__name__ for value in values))


def _name(declared: Any) -> str:
    """A type as Spark writes it."""
    if isinstance(declared, str):
        return declared
    if declared["type"] == "array":
        return f"array<{_name(declared['elementType'])}>"
    if declared["type"] == "map":
        return f"map<{_name(declared['keyType'])},{_name(declared['valueType'])}>"
    return f"struct<{','.join(field['name'] + ':' + _name(field['type']) for field in declared['fields'])}>"


def _say(error: BaseException) -> str:
    lines = reason(error)
    if lines and lines[0].startswith("Failed to enforce schema of data"):
        # Behind the data, of which MLflow prints all.
        lines = [" ".join(lines).rpartition(". Error: ")[2]]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
