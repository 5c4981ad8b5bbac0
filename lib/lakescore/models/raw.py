"""A raw model file in, the same model as an MLflow folder out, written by the native flavor's own ``save_model``.

The folder takes the signature that the model tells (``told.py``), pins of the libraries that it is made of, and the modules beside
the file that it was loaded with (``beside.py``). Loading a pickle runs the code in it, and the log says so.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

from mlflow import environment_variables as mlflow_environment

from lakescore.errors import ModelError, did_you_mean, listing
from lakescore.models import told
from lakescore.models.beside import Beside, distributions_of, pins
from lakescore.models.kinds import Kind, recognise
from lakescore.models.told import Told

log = logging.getLogger(__name__)

# In MLmodel's metadata: the inputs of a model that knows their names and not their types.
INPUT_NAMES = "lakescore.input_names"
# The keys under which checkpoints keep a state_dict.
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model")
_EXTRA = {"skops": "sklearn", "sklearn": "sklearn", "joblib": "sklearn", "xgboost": "xgboost", "lightgbm": "lightgbm", "torch": "torch"}
_XGBOOST_CLASSES = {"classifier": "XGBClassifier", "regressor": "XGBRegressor", "ranker": "XGBRanker"}


@dataclass(frozen=True)
class Wrapped:
    """A raw model as an MLflow folder.

    Attributes:
        path: the folder.
        digest: SHA-256 of the raw file; where more belongs to it (modules, a class, external data), of all of that.
        kind: what it was recognised as.
    """

    path: Path
    digest: str
    kind: Kind


@dataclass(frozen=True)
class _Native:
    """A loaded model: how the flavor saves it, what it tells, the libraries it needs, and other files that belong to it."""

    save: Callable[..., None]
    told: Told
    needs: Sequence[str]
    files: Sequence[Path] = ()


def wrap(
    file: Path,
    folder: Path,
    label: str,
    python_class: str | None = None,
    input_shape: Sequence[int] | None = None,
    code_folders: Sequence[Path] = (),
) -> Wrapped:
    """Recognise a raw model file, load it, and save it as an MLflow model.

    Args:
        file: the model file; modules in its folder can be imported by it.
        folder: where to write; must not exist.
        label: how errors name the model: ``model.uri: models/model.pt``.
        python_class: ``module:Class``, or a function, that makes the PyTorch module of a ``state_dict``; called without arguments.
        input_shape: the shape of one row's input to a PyTorch module.
        code_folders: further folders that modules may come from.

    Raises:
        ModelError: it is no model that is recognised, it is broken, or a package for it is missing.
    """
    kind = recognise(file, label)
    if python_class is not None and kind != "torch":
        raise ModelError(f"{label} is of the kind {kind}; a python_class is for a state_dict of PyTorch")
    if input_shape is not None and kind not in ("torch", "torchscript"):
        raise ModelError(f"{label} is of the kind {kind}; an input_shape is for a model of PyTorch")
    beside = Beside([file.resolve().parent, *code_folders])
    with beside.importable():
        with _one_line(label, "cannot be loaded"):
            native = _load(kind, file, label, python_class, input_shape)
        with _one_line(label, "cannot be saved as an MLflow model"):
            shipped = beside.sources()
            native.save(
                path=str(folder),
                signature=native.told.signature,
                code_paths=[str(source) for source in shipped] or None,
                pip_requirements=pins(*native.needs) or None,
                metadata={INPUT_NAMES: list(native.told.names)} if native.told.names else None,
            )
    return Wrapped(folder, _digest(file, [*shipped, *native.files], python_class or ""), kind)


def _load(kind: Kind, file: Path, label: str, python_class: str | None, input_shape: Sequence[int] | None) -> _Native:
    if kind in ("pickle", "joblib"):
        return _pickled(_load_pickle(kind, file, label), label)
    if kind == "torch":
        return _torch(_load_torch(file, label, python_class), input_shape, label)
    if kind == "torchscript":
        import torch

        return _torch(torch.jit.load(str(file), map_location="cpu"), input_shape, label)  # type: ignore[no-untyped-call]
    return {"skops": _load_skops, "xgboost": _load_xgboost, "lightgbm": _load_lightgbm, "onnx": _load_onnx}[kind](file, label)


@contextmanager
def _one_line(label: str, what: str) -> Iterator[None]:
    """Whatever a library raises, as one line that names the model; its warnings go to the log."""
    try:
        with warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", message="Trying to unpickle estimator")
            yield
        for warning in noticed[:1]:
            log.warning("model: %s", " ".join(str(warning.message).split()))
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(f"{label} {what}: {_missing(error)}") from error
    except SystemExit as error:
        # The code in a pickle would end the run here, without a word.
        raise ModelError(f"{label} {what}: its own code ends the process (SystemExit: {error})") from error
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        if "__main__" in reason:
            reason += "; its class was defined in the script that saved it: put the class into a module beside the file, and save it again"
        raise ModelError(f"{label} {what}: {type(error).__name__}: {reason}") from error


def _missing(error: ImportError) -> str:
    module = (error.name or "").partition(".")[0]
    extra = "onnx" if module.startswith("onnx") else _EXTRA.get(module)
    if extra and isinstance(error, ModuleNotFoundError):
        return f"the package {module} is missing: pip install 'lakescore[{extra}]'"
    if isinstance(error, ModuleNotFoundError):
        return f"it needs the module {error.name!r}: install it, or put its file beside the model's"
    return f"{error}"


# --- pickles


def _warn_of_code(file: Path, label: str) -> None:
    allowed = getattr(mlflow_environment, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", None)
    if allowed is not None and not allowed.get():
        raise ModelError(f"{label} is a pickle, and MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false forbids to load one")
    log.warning(
        "model: %s is a pickle, and loading it runs the code that is in it; load only what you trust (model.allowed_roots restricts where "
        "models may come from)",
        file,
    )


def _load_pickle(kind: Kind, file: Path, label: str) -> Any:
    _warn_of_code(file, label)
    if kind == "joblib":
        import joblib

        return joblib.load(file)
    with file.open("rb") as stream:
        return pickle.load(stream)


def _pickled(model: Any, label: str) -> _Native:
    """The flavor for an object of any library; all that has ``predict`` is saved as scikit-learn's are."""
    library = type(model).__module__.partition(".")[0]
    if library == "xgboost" and type(model).__name__ == "Booster":
        return _xgboost(model, label)
    if library == "lightgbm" and type(model).__name__ == "Booster":
        return _lightgbm(model, label)
    if "torch" in {base.__module__.partition(".")[0] for base in type(model).__mro__}:
        return _torch(model, None, label)
    if isinstance(model, type) or not callable(getattr(model, "predict", None)):
        held = f" with the keys {listing(model)}" if isinstance(model, dict) else ""
        raise ModelError(f"{label} holds {_article(type(model).__name__)}{held}; expected a fitted model with a method predict")
    return _sklearn(model, label, "cloudpickle")


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _sklearn(model: Any, label: str, serialization_format: str) -> _Native:
    import mlflow.sklearn
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.utils.validation import check_is_fitted

    if isinstance(model, BaseEstimator):
        try:
            check_is_fitted(model)
        except NotFittedError:
            raise ModelError(f"{label} holds {_article(type(model).__name__)} that is not fitted: fit it, and save it again") from None

    known = told.by_sklearn(model)
    if told.takes_texts(model):
        # MLflow passes a frame, over which a vectorizer would go by its column names; this gives it the column.
        column = FunctionTransformer(methodcaller("squeeze", "columns"))
        model, serialization_format = Pipeline([("column", column), ("model", model)]), "cloudpickle"

    def save(**options: Any) -> None:
        mlflow.sklearn.save_model(model, serialization_format=serialization_format, **options)

    needs = ["scikit-learn", "skops" if serialization_format == "skops" else "cloudpickle", *distributions_of(model)]
    return _Native(save, known, list(dict.fromkeys(needs)))


def _load_skops(file: Path, label: str) -> _Native:
    import skops.io

    untrusted = skops.io.get_untrusted_types(file=file)
    if untrusted:
        raise ModelError(
            f"{label} holds types that skops does not trust: {listing(untrusted)}; if you trust them, log the model with "
            "mlflow.sklearn.log_model(..., skops_trusted_types=[...]) and give its runs:/ or models:/ URI"
        )
    model = skops.io.load(file)
    if not callable(getattr(model, "predict", None)):
        raise ModelError(f"{label} holds {_article(type(model).__name__)}; expected a fitted model with a method predict")
    return _sklearn(model, label, "skops")


# --- boosters


def _load_xgboost(file: Path, label: str) -> _Native:
    import xgboost

    model = xgboost.Booster(model_file=str(file))
    # What XGBClassifier.save_model wrote predicts labels, as its user knows it, and not a booster's probabilities.
    written_by = json.loads(model.attributes().get("scikit_learn") or "{}").get("_estimator_type")
    if written_by in _XGBOOST_CLASSES:
        model = getattr(xgboost, _XGBOOST_CLASSES[written_by])()
        model.load_model(str(file))
    return _xgboost(model, label)


def _xgboost(model: Any, label: str) -> _Native:
    import mlflow.xgboost

    def save(**options: Any) -> None:
        mlflow.xgboost.save_model(model, **options)

    return _Native(save, told.by_xgboost(model, label), ["xgboost", "xgboost-cpu", "scikit-learn"])


def _load_lightgbm(file: Path, label: str) -> _Native:
    import lightgbm

    return _lightgbm(lightgbm.Booster(model_file=str(file)), label)


def _lightgbm(model: Any, label: str) -> _Native:
    import mlflow.lightgbm

    def save(**options: Any) -> None:
        mlflow.lightgbm.save_model(model, **options)

    return _Native(save, told.by_lightgbm(model, label), ["lightgbm", "scikit-learn"])


# --- PyTorch


def _load_torch(file: Path, label: str, python_class: str | None) -> Any:
    """A module as it was saved, or a module of ``python_class`` with the weights of a ``state_dict``."""
    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise
        _warn_of_code(file, label)
        loaded = torch.load(file, map_location="cpu", weights_only=False)
    if isinstance(loaded, torch.nn.Module):
        if python_class is not None:
            raise ModelError(f"{label} is a whole module ({type(loaded).__name__}), which needs no python_class; leave it out")
        return loaded
    if not isinstance(loaded, dict):
        raise ModelError(f"{label} holds {_article(type(loaded).__name__)}; expected a torch.nn.Module or a state_dict")
    state = next((loaded[key] for key in _CHECKPOINT_KEYS if isinstance(loaded.get(key), dict)), loaded)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(
            f"{label} holds a dict with the keys {listing(loaded)}, which is no state_dict; save the state_dict alone, or under the key "
            f"{' or '.join(_CHECKPOINT_KEYS)}"
        )
    if python_class is None:
        raise ModelError(
            f"{label} is a state_dict, which has the weights and not the module: name its class as module:Class (model.python_class, "
            "--python-class), and put the module beside the file; or save it by torch.jit.save"
        )
    return _with_weights(_make(python_class, label), state, python_class, label)


def _make(python_class: str, label: str) -> Any:
    import torch

    module_name, _, attribute = python_class.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise
        raise ModelError(
            f"{label}: python_class {python_class}: there is no module {module_name!r}; put {module_name.partition('.')[0]}.py beside the "
            "file, or install it"
        ) from error
    maker = getattr(module, attribute, None)
    if not callable(maker):
        found = (
            f"has no {attribute!r}" if maker is None else f"has no class or function {attribute!r}, but {_article(type(maker).__name__)}"
        )
        callables = [name for name, value in vars(module).items() if callable(value)]
        raise ModelError(f"{label}: python_class {python_class}: {module_name} {found}.{did_you_mean(attribute, callables)}")
    try:
        made = maker()
    except TypeError as error:
        raise ModelError(
            f"{label}: python_class {python_class} cannot be called without arguments: {error}; name a function that makes the module"
        ) from error
    if not isinstance(made, torch.nn.Module):
        raise ModelError(f"{label}: python_class {python_class} makes {_article(type(made).__name__)}; expected a torch.nn.Module")
    return made


def _with_weights(module: Any, state: Any, python_class: str, label: str) -> Any:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:] if line.strip())
        raise ModelError(f"{label}: its weights are not those of {python_class}: {reason or error}") from error
    return module


def _torch(model: Any, input_shape: Sequence[int] | None, label: str) -> _Native:
    import mlflow.pytorch

    try:
        known = told.by_torch(model, input_shape)
    except Exception as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise ModelError(f"{label} does not take rows of the shape {list(input_shape or ())} (model.input_shape): {reason}") from error

    def save(**options: Any) -> None:
        mlflow.pytorch.save_model(model, serialization_format="pickle", **options)

    return _Native(save, known, ["torch", "torch-cpu", "numpy"])


# --- ONNX


def _load_onnx(file: Path, label: str) -> _Native:
    import mlflow.onnx
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(file))
    outside = _external_files(onnx.load(str(file), load_external_data=False), file)
    model = onnx.load(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def save(**options: Any) -> None:
        mlflow.onnx.save_model(model, **options)

    return _Native(save, told.by_onnx(session, label), ["onnx", "onnxruntime", "onnxruntime-gpu"], outside)


def _external_files(model: Any, file: Path) -> list[Path]:
    """The files beside an ONNX model that hold its large tensors."""
    from onnx.external_data_helper import uses_external_data

    names = {
        entry.value
        for tensor in model.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [file.parent / name for name in sorted(names)]


def _digest(file: Path, others: Sequence[Path], python_class: str) -> str:
    """The raw file's own SHA-256, as ``sha256sum`` prints it; with other files or a class, that of all names and contents."""
    if not others and not python_class:
        return _sha256(file)
    digest = hashlib.sha256(f"{_sha256(file)}\0{python_class}\n".encode())
    for other in others:
        for path in sorted(other.rglob("*")) if other.is_dir() else [other]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(other.parent)}\0{_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
