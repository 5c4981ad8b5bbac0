"""A resolved model in, a folder out that MLflow loads as one model: the original, untouched, behind ``guard``.

::

    bundle/MLmodel                 python_function: loader_module lakescore_guard, the original's output declaration
    bundle/code/lakescore_guard.py a copy of guard.py, so that executors need no Lakescore
    bundle/guarded/contract.json   the declared result type and which inputs need care
    bundle/guarded/model/          the original model's files

The bundle is exactly the bytes that were resolved: what is loaded cannot differ from what is stamped.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.pyfunc import add_to_model
from mlflow.types.schema import ColSpec, DataType, ParamSchema, Schema
from pyspark.sql import types as T

from lakescore.engine import guard
from lakescore.schema import Tensor

_ENVIRONMENT_FILES = ("requirements.txt", "conda.yaml", "python_env.yaml")
# spark_udf accepts these by itself and leaves their values alone, but refuses them as an explicit result_type.
_BY_SIGNATURE = {"timestamp": DataType.datetime, "binary": DataType.binary}


@dataclass(frozen=True)
class Bundle:
    """A folder to give to spark_udf, with the type that it is to return there (None: from the bundle's own signature)."""

    path: Path
    udf_type: T.DataType | None
    is_array: bool


def build(
    model_path: Path,
    result: T.DataType,
    method: str | None,
    integers: tuple[str, ...],
    absent: tuple[str, ...],
    isolated: bool,
    folder: Path,
    tensor: Tensor | None = None,
) -> Bundle:
    """Write the bundle.

    Args:
        model_path: the original model's folder.
        result: the Spark type of one row's prediction.
        method: the method to call instead of ``predict``.
        integers: inputs in which a null is refused.
        absent: optional inputs that the source has not and pandas cannot hold as null.
        isolated: whether the model runs in an environment of its own, made of its requirements.
        folder: where to write; must not exist.
        tensor: what each row's one array is to be handed over as; None where the model takes columns.
    """
    guarded = folder / "guarded"
    shutil.copytree(model_path, guarded / "model", copy_function=_link_or_copy)
    (folder / "code").mkdir()
    # By importlib: the package may lie in a zip that --py-files brought.
    source = resources.files("lakescore.engine").joinpath("guard.py").read_bytes()
    (folder / "code" / "lakescore_guard.py").write_bytes(source)
    contract = {
        "result": result.jsonValue(),
        "method": method if method != "predict" else None,
        "integers": list(integers),
        "absent": list(absent),
        "tensor": {"shape": list(tensor.shape), "type": tensor.type} if tensor else None,
    }
    (guarded / "contract.json").write_text(json.dumps(contract), encoding="utf-8")
    _write_environment(model_path, folder, isolated)
    original = Model.load(str(model_path))
    by_signature = _BY_SIGNATURE.get(result.typeName())
    model = Model(signature=_signature(original.signature, by_signature), run_id=original.run_id)
    flavor = original.flavors["python_function"]
    # MLflow adds only the top model's code folder to sys.path; the original's own is added when the guard loads it.
    add_to_model(model, loader_module="lakescore_guard", data="guarded", code="code", conda_env=None)  # type: ignore[no-untyped-call]
    if isolated:
        model.flavors["python_function"]["env"] = flavor.get("env", {"conda": "conda.yaml", "virtualenv": "python_env.yaml"})
    model.flavors["python_function"]["python_version"] = flavor.get("python_version")
    model.save(str(folder / "MLmodel"))
    is_array = isinstance(result, T.ArrayType)
    udf_type = T.StructType([T.StructField(guard.ARRAY_FIELD, result)]) if is_array else result
    return Bundle(folder, None if by_signature else udf_type, is_array)


def _signature(original: ModelSignature | None, result: DataType | None) -> ModelSignature | None:
    """No inputs: the original enforces its own, once. Parameters, so that spark_udf passes them on."""
    params: ParamSchema | None = original.params if original else None
    outputs = Schema([ColSpec(result)]) if result else None
    return ModelSignature(outputs=outputs, params=params) if outputs or params else None  # type: ignore[arg-type]


def _write_environment(model_path: Path, folder: Path, isolated: bool) -> None:
    for name in _ENVIRONMENT_FILES:
        if isolated and (model_path / name).is_file():
            shutil.copyfile(model_path / name, folder / name)
    if not isolated:
        # The driver has checked the requirements; an empty list spares every task the same check and warning.
        (folder / "requirements.txt").write_text("", encoding="utf-8")


def _link_or_copy(source: str, target: str) -> None:
    """Link where the file system can: a model may have gigabytes."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
