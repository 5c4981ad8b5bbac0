"""``model.uri`` in, a ``ResolvedModel`` out: one pinned version on the local disk, which is what is loaded and stamped.

| URI                        | pinned to                    | ``model_version`` of each row |
| -------------------------- | ---------------------------- | ----------------------------- |
| ``models:/name@alias``     | ``models:/name/VERSION``     | VERSION                       |
| ``models:/name/VERSION``   | itself                       | VERSION                       |
| ``models:/m-ID``           | itself                       | m-ID                          |
| ``runs:/RUN/path``         | itself                       | m-ID, or the content's digest |
| a path, ``file:``, ``s3:`` | the absolute path or the URI | the content's digest          |

Each of them but ``models:/`` may also name a raw model file, which is wrapped here (``raw.py``).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from pyspark.sql import types as T

from lakescore import session, storage
from lakescore.config import ModelConfig
from lakescore.drift.statistics import FILE as STATISTICS_FILE
from lakescore.errors import ModelError, NeedsSparkError, did_you_mean, listing
from lakescore.models import raw, roots
from lakescore.models.fetch import fetch, fetch_module, what_it_is
from lakescore.models.requirements import check_requirements
from lakescore.models.signature import convert
from lakescore.redact import redact
from lakescore.schema import Signature

_LOGGED_MODEL = re.compile(r"^models:/(?P<id>m-[0-9a-f]{8,})$")
_REGISTERED = re.compile(r"^models:/(?P<name>[^@/]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))$")
_RUN = re.compile(r"^runs:/(?P<run>[^/]+)/(?P<path>.+)$")
# The keys of an MLmodel's flavors that name files of the model.
_PATH_KEYS = ("data", "model_path", "code", "python_model", "pickled_model", "model_data")
# Methods whose result is one number per class.
_PER_CLASS_METHODS = ("predict_proba", "predict_log_proba")


@dataclass(frozen=True)
class ResolvedModel:
    """The model of one run, pinned.

    Attributes:
        uri: the pinned URI, which is what each row is stamped with.
        version: the registered version, the logged model's ID, or ``sha256:...`` of the content.
        path: the folder on this machine that holds exactly this model.
        digest: SHA-256 over the names and contents of all files of the model; of a raw file, its own.
        signature: what it takes and gives.
        flavor: the library behind it, ``sklearn`` for example.
    """

    uri: str
    version: str
    path: Path
    digest: str
    signature: Signature
    flavor: str


def resolve(config: ModelConfig, client: MlflowClient, registry_uri: str | None, download_to: Path) -> ResolvedModel:
    """Find the model, pin it, bring it here, and check that this Python can run it.

    Args:
        config: the section ``model``.
        client: for the tracking server and the registry.
        registry_uri: the registry, where it is not the tracking server.
        download_to: an empty folder of this run.

    Raises:
        ModelError: in one line, with what exists instead.
    """
    assert config.uri is not None, "an entry script without a model has nothing to resolve"
    label = f"model.uri: {config.uri}"
    roots.check(config.uri, config.allowed_roots, label)
    pinned, version = _pin(config.uri, client)
    path = fetch(config.uri, pinned, client, registry_uri, download_to, label)
    if storage.scheme_of(config.uri) == "file":
        roots.check(str(path), config.allowed_roots, label)
        pinned = f"file://{path}"
    path, digest = _as_folder(path, pinned, config, download_to, label)
    metadata = _read_metadata(config.uri, path)
    signature = _signature(metadata)
    if config.env_manager == "local":
        python = metadata.flavors["python_function"].get("python_version")
        check_requirements(_requirements(path), python, config.requirements)
    _check_params(config, signature)
    _check_result_type(config, signature)
    flavors = [name for name in metadata.flavors if name != "python_function"]
    return ResolvedModel(
        uri=redact(pinned),
        version=version or metadata.model_id or f"sha256:{digest[:16]}",
        path=path,
        digest=digest,
        signature=signature,
        flavor=flavors[0] if flavors else "pyfunc",
    )


def _as_folder(found: Path, pinned: str, config: ModelConfig, download_to: Path, label: str) -> tuple[Path, str]:
    """The model as an MLflow folder, a raw file wrapped, and its digest."""
    assert config.uri is not None, "asked by the caller"
    if found.is_dir():
        for key in ("python_class", "input_shape"):
            if getattr(config, key) is not None:
                raise ModelError(f"model.{key}: is for a raw PyTorch file, and {config.uri} is an MLflow model; leave it out")
        return found, digest_of(found)
    if config.allowed_roots:
        found = Path(os.path.realpath(found))
    if config.python_class is not None and storage.scheme_of(config.uri) != "file":
        fetch_module(pinned, config.python_class, found.parent)
    # Where models may come from only some folders, so may their modules.
    folders = [] if config.allowed_roots else [Path.cwd()]
    wrapped = raw.wrap(found, download_to / "wrapped", label, config.python_class, config.input_shape, folders)
    return wrapped.path, wrapped.digest


def _signature(metadata: Model) -> Signature:
    signature = convert(metadata.signature)
    names = (metadata.metadata or {}).get(raw.INPUT_NAMES)
    if names and signature.features is None and signature.unnamed is None:
        return replace(signature, names=tuple(names))
    return signature


def fetch_any(config: ModelConfig, client: MlflowClient, registry_uri: str | None, download_to: Path) -> tuple[str, str | None, Path]:
    """Pin a model of any kind, also a raw file or a folder without MLmodel, and bring it here: for an entry script, which loads it.

    Returns:
        The pinned URI, the version where the URI or the model itself tells it, and its file or folder.

    Raises:
        ModelError: it does not exist or cannot be fetched.
    """
    assert config.uri is not None, "asked by the caller"
    label = f"model.uri: {config.uri}"
    roots.check(config.uri, config.allowed_roots, label)
    pinned, version = _pin(config.uri, client)
    path = Path(storage.absolute(config.uri))
    if storage.scheme_of(config.uri) != "file" or not path.exists():
        path = fetch(config.uri, pinned, client, registry_uri, download_to, label)
    if storage.scheme_of(config.uri) == "file":
        roots.check(str(path), config.allowed_roots, label)
    if version is None and (path / "MLmodel").is_file():
        version = Model.load(str(path)).model_id
    return pinned, version, path


def _pin(uri: str, client: MlflowClient) -> tuple[str, str | None]:
    """The URI that cannot move any more, and the version as far as the URI tells it."""
    if logged := _LOGGED_MODEL.match(uri):
        return uri, logged.group("id")
    if uri.startswith("models:/"):
        registered = _REGISTERED.match(uri)
        if not registered:
            raise ModelError(f"model.uri: {uri} is not models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID")
        version = _registered_version(uri, client, **registered.groupdict())
        return f"models:/{registered.group('name')}/{version}", version
    if uri.startswith("runs:/"):
        if not _RUN.match(uri):
            raise ModelError(f"model.uri: {uri} is not runs:/RUN_ID/PATH")
        return uri, None
    if storage.scheme_of(uri) == "file":
        return f"file://{storage.absolute(uri)}", None
    # Credentials in a URI fetch the model, and are stamped nowhere.
    return uri, None


def _registered_version(uri: str, client: MlflowClient, name: str, alias: str | None, version: str | None) -> str:
    try:
        if alias:
            return str(client.get_model_version_by_alias(name, alias).version)
        if version == "latest":
            versions = _versions(client, name)
            if versions:
                return str(max(versions))
        elif version and version.isdigit():
            return str(client.get_model_version(name, version).version)
    except MlflowException as error:
        _raise_if_not_missing(uri, error)
    raise ModelError(f"model.uri: {uri} does not exist: {_what_exists(client, name, alias)}")


def _what_exists(client: MlflowClient, name: str, alias: str | None) -> str:
    try:
        model = client.get_registered_model(name)
    except MlflowException:
        names = [found.name for found in client.search_registered_models(max_results=200)]
        return f"no registered model is called {name!r}.{did_you_mean(name, names)} Registered: {listing(names)}"
    aliases = dict(model.aliases or {})
    hint = did_you_mean(alias, aliases) if alias else ""
    shown = listing(f"{key} (version {value})" for key, value in aliases.items())
    return f"{name} has the versions {listing(_versions(client, name))} and the aliases {shown}.{hint}"


def _versions(client: MlflowClient, name: str) -> list[int]:
    quoted = name.replace("'", "\\'")
    return sorted(int(found.version) for found in client.search_model_versions(f"name='{quoted}'"))


def _raise_if_not_missing(uri: str, error: MlflowException) -> None:
    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
        raise ModelError(f"model.uri: {uri} cannot be looked up: {error}") from error


def _read_metadata(uri: str, path: Path) -> Model:
    if not (path / "MLmodel").is_file():
        raise ModelError(f"model.uri: {uri} is {what_it_is(path)}")
    try:
        metadata = Model.load(str(path))
    except Exception as error:
        raise ModelError(f"model.uri: {uri}: its MLmodel file cannot be read: {error}") from error
    if not isinstance(metadata.flavors, dict) or not all(isinstance(settings, dict) for settings in metadata.flavors.values()):
        raise ModelError(f"model.uri: {uri}: its MLmodel file cannot be read: flavors must be a mapping of mappings; log the model again")
    if "python_function" not in metadata.flavors:
        raise ModelError(
            f"model.uri: {uri} has no python_function flavor and cannot be scored from Python; it has {listing(metadata.flavors)}"
        )
    _refuse_outside(uri, metadata.flavors)
    return metadata


def _refuse_outside(uri: str, flavors: Mapping[str, Mapping[str, Any]]) -> None:
    """What an MLmodel names outside of its folder is in no digest, may be anybody's, and does not go to the workers."""
    for flavor, settings in flavors.items():
        artifacts = settings.get("artifacts")
        items = artifacts.items() if isinstance(artifacts, dict) else ()
        named = {f"artifacts.{name}": one.get("path") for name, one in items if isinstance(one, dict)}
        named |= {key: settings.get(key) for key in _PATH_KEYS}
        for key, path in named.items():
            if isinstance(path, str) and (os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == ".."):
                raise ModelError(
                    f"model.uri: {uri}: its MLmodel names {path!r} ({flavor}.{key}), which is outside of the model's folder; log it again"
                )


def _requirements(path: Path) -> list[str]:
    file = path / "requirements.txt"
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _check_params(config: ModelConfig, signature: Signature) -> None:
    for name in config.params:
        if name not in signature.params:
            known = f"it takes {listing(signature.params)}" if signature.params else "its signature declares none"
            raise ModelError(f"model.params: the model takes no parameter {name!r}: {known}.{did_you_mean(name, signature.params)}")


def _check_result_type(config: ModelConfig, signature: Signature) -> None:
    if config.result_type is not None or config.predict_method in _PER_CLASS_METHODS:
        return
    if config.predict_method not in (None, "predict"):
        raise ModelError(
            f"model.result_type: is required with model.predict_method={config.predict_method}, whose result the signature does "
            "not describe; for example model.result_type=double"
        )
    if signature.result is None:
        raise ModelError(
            "model.result_type: is required, because the model's signature declares no output; for example "
            "model.result_type=double, or log the model with a signature"
        )


def result_type(config: ModelConfig, signature: Signature) -> T.DataType:
    """The Spark type of one row's prediction.

    Raises:
        ModelError: ``model.result_type`` is no type.
        NeedsSparkError: only Spark can parse it, and there is no session.
    """
    if config.result_type is not None:
        try:
            return session.parse_type(config.result_type)
        except NeedsSparkError:
            raise
        except Exception as error:
            raise ModelError(
                f"model.result_type: got {config.result_type!r}; expected a Spark type such as double, long, string or array<double>"
            ) from error
    if config.predict_method in _PER_CLASS_METHODS:
        return T.ArrayType(T.DoubleType())
    assert signature.result is not None, "checked when the model was resolved"
    return signature.result


def digest_of(path: Path) -> str:
    """SHA-256 over the names and contents of all files of a folder but its statistics, which may be added later."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = Path(folder, name)
            if file == path / STATISTICS_FILE:
                continue
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
