"""A model's URI in, the model on this machine out: an MLflow folder, or a raw model file."""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from lakescore import storage
from lakescore.errors import ModelError, did_you_mean, listing
from lakescore.mlflow_defaults import as_default, require_answer
from lakescore.object_store import SCHEMES

log = logging.getLogger(__name__)

_RUN = re.compile(r"^runs:/(?P<run>[^/]+)/(?P<path>.+)$")
_RAW_SUFFIXES = (".pkl", ".pickle", ".joblib", ".skops", ".pt", ".pth", ".onnx", ".ubj", ".json", ".txt")


def fetch(uri: str, pinned: str, client: MlflowClient, registry_uri: str | None, download_to: Path, label: str) -> Path:
    """Bring a model here.

    Args:
        uri: as given; pinned: the same, as it cannot move any more.
        client: for the tracking server and the registry; registry_uri: the registry, where it is another.
        download_to: a folder of this run.
        label: how errors name the model: ``model.uri: runs:/ID/model``.

    Returns:
        The folder of an MLflow model, or a file.

    Raises:
        ModelError: there is none, with what exists instead.
    """
    if storage.scheme_of(uri) == "file":
        return _local(uri, label)
    if storage.scheme_of(uri) in ("http", "https") and "/mlflow-artifacts/" not in uri:
        raise ModelError(f"{label} is no address of an MLflow server's artifacts: download the model and give its path")
    require_answer("model.uri", uri)
    if run := _RUN.match(uri):
        _check_run(label, run.group("run"), client)
    if storage.scheme_of(uri) in SCHEMES:
        _check_there(uri, label)
        pinned = f"s3{pinned[pinned.index(':') :]}"  # MLflow knows S3 by this name only
    try:
        with as_default(client.tracking_uri, registry_uri):
            return Path(download_artifacts(artifact_uri=pinned, dst_path=str(download_to)))
    except ImportError as error:
        raise ModelError(f"{label} cannot be fetched: {error}; for S3: pip install 'lakescore[s3]'") from error
    except Exception as error:
        raise ModelError(f"{label} cannot be fetched: {error}{_artifacts_of(uri, client)}") from error


def fetch_module(pinned: str, python_class: str, folder: Path) -> None:
    """Bring the module of ``module:Class`` that lies beside a remote model file, if there is one, into the file's folder."""
    module = python_class.partition(":")[0].partition(".")[0]
    for name in (f"{module}.py", module):
        with contextlib.suppress(Exception):
            download_artifacts(artifact_uri=f"{pinned.rpartition('/')[0]}/{name}", dst_path=str(folder))
            return


def _local(uri: str, label: str) -> Path:
    path = Path(storage.absolute(uri))
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"{label} does not exist (looked for {path}).{did_you_mean(path.name, siblings)}")
    if not path.is_file() and not path.is_dir():
        raise ModelError(f"{label} is neither a file nor a folder, but a pipe or a device")
    if path.is_dir() and (path / "MLmodel").is_file():
        return path
    if path.name == "MLmodel":
        return path.parent
    around = _model_around(path)
    if around is not None:
        log.info("model: %s is the data of the MLflow model %s, which is used", path, around)
        return around
    if path.is_dir():
        raise ModelError(f"{label} is {what_it_is(path)}")
    return path


def what_it_is(folder: Path) -> str:
    """A folder that is no MLflow model, in words."""
    if (folder / "saved_model.pb").is_file():
        return (
            "a TensorFlow SavedModel, which is not recognised: log it with mlflow.tensorflow.log_model and give its runs:/ or models:/ URI"
        )
    names = sorted(path.name for path in folder.iterdir())
    raw = [name for name in names if name.lower().endswith(_RAW_SUFFIXES)]
    hint = f"; for a raw model name the file itself: {folder / raw[0]}" if len(raw) == 1 else ""
    return f"no MLflow model: an MLflow model is a folder with a file MLmodel; it holds {listing(names)}{hint}"


def _model_around(path: Path) -> Path | None:
    """The MLflow model that a file or folder is the data of (``model/data/model.pth``): its MLmodel says how to load that."""
    for folder in list(path.parents)[:3]:
        if (folder / "MLmodel").is_file():
            try:
                flavor = (Model.load(str(folder)).flavors or {}).get("python_function", {})
            except Exception:
                return None
            data = flavor.get("data") or flavor.get("model_path")
            return folder if data and path.is_relative_to(folder / str(data)) else None
    return None


def _check_there(uri: str, label: str) -> None:
    """Look before MLflow does, which takes minutes to find that a store does not answer."""
    try:
        place = storage.Location.of(uri)
        if place is not None and not place.exists():
            raise ModelError(f"{label} does not exist")
    except OSError as error:
        raise ModelError(f"{label} cannot be fetched: {error}") from error


def _check_run(label: str, run_id: str, client: MlflowClient) -> None:
    try:
        client.get_run(run_id)
    except MlflowException as error:
        raise ModelError(f"{label}: there is no run {run_id} in {client.tracking_uri}: {error}") from error


def _artifacts_of(uri: str, client: MlflowClient) -> str:
    run = _RUN.match(uri)
    if not run:
        return ""
    try:
        run_id = run.group("run")
        names = [item.path for item in client.list_artifacts(run_id)]
        outputs = client.get_run(run_id).outputs
        names += [str(output.model_id) for output in outputs.model_outputs] if outputs else []
    except Exception:
        return ""
    return f" The run holds: {listing(names)}"
