"""A resolved model in, a folder out that MLflow loads as one model: the original, untouched, behind ``guard``.

::

    bundle/MLmodel                  python_function: loader_module lakescore_guard.guard, the original's output declaration
    bundle/code/lakescore_guard/    copies of guard.py and of what runs beside it, so that executors need no Lakescore
    bundle/guarded/contract.json    the declared result type, which inputs need care, what happens to bad rows
    bundle/guarded/model/           the original model's files

The bundle is exactly the bytes that were resolved: what is loaded cannot differ from what is stamped.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.pyfunc import add_to_model
from mlflow.types.schema import ColSpec, DataType, ParamSchema, Schema
from pyspark.sql import types as T

from lakescore.engine import isolation
from lakescore.schema import Tensor

_CODE = ("guard.py", "isolation.py", "threads.py", "fast_worker.py", "gathering.py")
_ENVIRONMENT_FILES = ("requirements.txt", "conda.yaml", "python_env.yaml")
# spark_udf accepts these by itself and leaves their values alone, but refuses them as an explicit result_type.
_BY_SIGNATURE = {"timestamp": DataType.datetime, "binary": DataType.binary}


@dataclass(frozen=True)
class Bundle:
    """A folder that MLflow loads as a model, and what comes out of it.

    Attributes:
        answer_type: the Spark type of one row's answer.
        udf_type: the same as spark_udf is to be told it; None: it takes it from the bundle's own signature.
        wraps: whether the answer is a struct that holds the prediction in ``VALUE_FIELD``.
        isolates: whether it says why a row has no prediction, in ``ERROR_FIELD``.
    """

    path: Path
    answer_type: T.DataType
    udf_type: T.DataType | None
    wraps: bool
    isolates: bool


@dataclass(frozen=True)
class Contract:
    """How the guard calls the model.

    Attributes:
        result: the Spark type of one row's prediction.
        method: the method to call instead of ``predict``.
        integers: inputs in which a null is refused.
        absent: optional inputs that the source has not and pandas cannot hold as null.
        keys: the names of the key columns that come beside the features, to name a row that fails.
        isolates: whether a row that fails is an answer, and not the end.
        tensor: what each row's one array is to be handed over as; None where the model takes columns.
        threads: what the model's native libraries may use in each worker; None: whatever they take.
    """

    result: T.DataType
    method: str | None = None
    integers: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    isolates: bool = False
    tensor: Tensor | None = None
    threads: int | None = None


def build(model_path: Path, contract: Contract, environment: bool, folder: Path) -> Bundle:
    """Write the bundle.

    Args:
        model_path: the original model's folder.
        contract: how the guard calls it.
        environment: whether the model runs in an environment of its own, made of its requirements.
        folder: where to write; must not exist.
    """
    result = contract.result
    guarded = folder / "guarded"
    shutil.copytree(model_path, guarded / "model", copy_function=_link_or_copy)
    _write_code(folder / "code" / "lakescore_guard")
    (guarded / "contract.json").write_text(json.dumps(_as_json(contract)), encoding="utf-8")
    _write_environment(model_path, folder, environment)
    original = Model.load(str(model_path))
    by_signature = _BY_SIGNATURE.get(result.typeName())
    model = Model(signature=_signature(original.signature, by_signature), run_id=original.run_id)
    flavor = original.flavors["python_function"]
    # MLflow adds only the top model's code folder to sys.path; the original's own is added when the guard loads it.
    add_to_model(model, loader_module="lakescore_guard.guard", data="guarded", code="code", conda_env=None)  # type: ignore[no-untyped-call]
    if environment:
        model.flavors["python_function"]["env"] = flavor.get("env", {"conda": "conda.yaml", "virtualenv": "python_env.yaml"})
    model.flavors["python_function"]["python_version"] = flavor.get("python_version")
    model.save(str(folder / "MLmodel"))
    wraps = isinstance(result, T.ArrayType) or (contract.isolates and not isinstance(result, T.StructType))
    udf_type = T.StructType([T.StructField(isolation.VALUE_FIELD, result)]) if wraps else result
    if contract.isolates:
        assert isinstance(udf_type, T.StructType), "made one above"
        udf_type = T.StructType([*udf_type.fields, T.StructField(isolation.ERROR_FIELD, T.StringType())])
    return Bundle(folder, udf_type, None if by_signature else udf_type, wraps, contract.isolates)


def _as_json(contract: Contract) -> dict[str, Any]:
    return {
        "run": uuid.uuid4().hex,
        "result": contract.result.jsonValue(),
        "method": contract.method if contract.method != "predict" else None,
        "integers": list(contract.integers),
        "absent": list(contract.absent),
        "keys": list(contract.keys),
        "isolates": contract.isolates,
        "tensor": {"shape": list(contract.tensor.shape), "type": contract.tensor.type} if contract.tensor else None,
        "threads": contract.threads,
    }


def _write_code(package: Path) -> None:
    package.mkdir(parents=True)
    # All at once: the worker keeps the package for the next run, whose own folder is another.
    (package / "__init__.py").write_text("from . import fast_worker, gathering\n", encoding="utf-8")
    for name in _CODE:
        # By importlib: Lakescore may lie in a zip that --py-files brought.
        (package / name).write_bytes(resources.files("lakescore.engine").joinpath(name).read_bytes())


def _signature(original: ModelSignature | None, result: DataType | None) -> ModelSignature | None:
    """No inputs: the original enforces its own, once. Parameters, so that spark_udf passes them on."""
    params: ParamSchema | None = original.params if original else None
    outputs = Schema([ColSpec(result)]) if result else None
    return ModelSignature(outputs=outputs, params=params) if outputs or params else None  # type: ignore[arg-type]


def _write_environment(model_path: Path, folder: Path, environment: bool) -> None:
    for name in _ENVIRONMENT_FILES:
        if environment and (model_path / name).is_file():
            shutil.copyfile(model_path / name, folder / name)
    if not environment:
        # The driver has checked the requirements; an empty list spares every task the same check and warning.
        (folder / "requirements.txt").write_text("", encoding="utf-8")


def _link_or_copy(source: str, target: str) -> None:
    """Link where the file system can: a model may have gigabytes."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
