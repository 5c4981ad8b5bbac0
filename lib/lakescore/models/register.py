"""A model file, folder or run's artifact in, a registered version with alias, tags and signature out."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.utils import validation

from lakescore import storage
from lakescore.drift.statistics import FILE as STATISTICS_FILE
from lakescore.errors import ConfigError, LakescoreError, ModelError
from lakescore.mlflow_defaults import as_default
from lakescore.models import raw, roots, sample
from lakescore.models.fetch import fetch, fetch_module, what_it_is
from lakescore.redact import redact

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """What to register, and as what.

    Attributes:
        model: a path, a ``file:`` or store URI, ``runs:/ID/path``, or ``models:/m-ID``: an MLflow model or a raw file.
        name: the registered model's name; made when it is not there.
        aliases, tags, description: of the new version. Aliases move here from the version that had them.
        sample: a data file whose columns and predictions give the signature; labels: its columns that are no inputs.
        training_set: path or table of the training data, whose statistics are kept with the version; a file or folder gives
            the signature too, where neither the model nor the rest does.
        columns: the inputs as text, ``"a double, b string"``; result: the type of one row's prediction.
        python_class, input_shape: as ``model.python_class`` and ``model.input_shape`` of the configuration.
        allowed_roots: as ``model.allowed_roots``.
    """

    model: str
    name: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    sample: str | None = None
    training_set: str | None = None
    labels: tuple[str, ...] = ()
    columns: str | None = None
    result: str | None = None
    python_class: str | None = None
    input_shape: tuple[int, ...] | None = None
    allowed_roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registered:
    """A registered version.

    Attributes:
        name, version, aliases: as registered.
        uri: ``models:/NAME@ALIAS`` with an alias, else ``models:/NAME/VERSION``.
        flavor: the library behind it; kind: what the raw file was recognised as, None for an MLflow model.
        signature: MLflow's; names: the inputs of a model that knows their names and not their types.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    flavor: str
    kind: str | None
    signature: ModelSignature | None
    names: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.aliases[0]}" if self.aliases else f"models:/{self.name}/{self.version}"


def register(
    registration: Registration,
    client: MlflowClient,
    registry_uri: str | None,
    experiment_id: Callable[[], str],
    scratch: Path,
    statistics: Callable[[Path], str] | None = None,
) -> Registered:
    """Register a model.

    What can be refused is refused before the registry is touched; aliases move last, when the version is complete.

    Args:
        registration: what, and as what.
        client: for the tracking server and the registry; registry_uri: the registry, where it is another.
        experiment_id: gives the experiment that a model without a run is logged to.
        scratch: an empty folder of this call.
        statistics: counts the training set with the model in a folder, as JSON to be kept with it; None: there is none.

    Raises:
        ModelError: the model cannot be found or wrapped, or MLflow refuses the name, an alias or a tag.
        InputError: the sample cannot be read, or does not fit.
        ConfigError: options contradict each other.
    """
    label = f"MODEL: {registration.model}"
    _check_names(registration)
    _check_options(registration)
    roots.check(registration.model, registration.allowed_roots, label)
    found = fetch(registration.model, registration.model, client, registry_uri, scratch / "fetched", label)
    if storage.scheme_of(registration.model) == "file":
        roots.check(str(found), registration.allowed_roots, label)
    folder, kind, digest = _as_folder(registration, found, scratch, label)
    metadata = _with_signature(registration, folder, label)
    if statistics is not None:
        (folder / STATISTICS_FILE).write_text(statistics(folder), encoding="utf-8")
    with as_default(client.tracking_uri, registry_uri), _one_line(f"{registration.name} cannot be registered"):
        changed = kind is not None or _says_signature(registration) or statistics is not None
        source = _logged_source(registration, metadata, changed)
        if source is None:
            run_id = _run_of(registration.model)
            experiment = client.get_run(run_id).info.experiment_id if run_id is not None else experiment_id()
            source = _log(client, folder, metadata, experiment, run_id, registration.model, digest)
        version = _create_version(client, registration, source)
    flavors = [name for name in metadata.flavors if name != "python_function"]
    names = tuple((metadata.metadata or {}).get(raw.INPUT_NAMES) or ())
    return Registered(
        registration.name, version, registration.aliases, flavors[0] if flavors else "pyfunc", kind, metadata.signature, names
    )


def _check_names(registration: Registration) -> None:
    """Ask MLflow's own rules first: a version whose alias is refused would stay behind."""
    in_catalog = registration.name.count(".") == 2
    checks = [("--name", registration.name, validation._validate_model_name)] if not in_catalog else []
    for alias in registration.aliases:
        checks += [
            ("--alias", alias, validation._validate_model_alias_name),
            ("--alias", alias, validation._validate_model_alias_name_reserved),
        ]
    for option, value, check in checks:
        try:
            check(value)  # type: ignore[no-untyped-call,unused-ignore]
        except MlflowException as error:
            raise ModelError(f"{option}: MLflow refuses {value!r}: {error.message}") from error
    for key, value in registration.tags.items():
        try:
            validation._validate_model_version_tag(key, value)  # type: ignore[no-untyped-call]
        except MlflowException as error:
            raise ModelError(f"--tag: MLflow refuses {key}={value}: {error.message}") from error


def _check_options(registration: Registration) -> None:
    if registration.sample is not None and (registration.columns is not None or registration.result is not None):
        raise ConfigError("--sample: it gives the whole signature; leave out --columns and --result, or the sample")
    if registration.labels and registration.sample is None and registration.training_set is None:
        raise ConfigError("--label: names columns of --sample or --training-set, and neither is given")


def _as_folder(registration: Registration, found: Path, scratch: Path, label: str) -> tuple[Path, str | None, str | None]:
    """The model as an MLflow folder of our own to write to, what the raw file was, and its digest."""
    if found.is_dir():
        if not (found / "MLmodel").is_file():
            raise ModelError(f"{label} is {what_it_is(found)}")
        if registration.python_class or registration.input_shape:
            raise ConfigError("--python-class, --input-shape: are for a raw PyTorch file, and MODEL is an MLflow model; leave them out")
        folder = scratch / "model"
        shutil.copytree(found, folder)
        return folder, None, None
    is_remote = storage.scheme_of(registration.model) != "file"
    if registration.python_class is not None and is_remote:
        fetch_module(registration.model, registration.python_class, found.parent)
    folders = [] if registration.allowed_roots else [Path.cwd()]
    file = Path(os.path.realpath(found)) if registration.allowed_roots else found
    wrapped = raw.wrap(file, scratch / "model", label, registration.python_class, registration.input_shape, folders)
    return wrapped.path, wrapped.kind, wrapped.digest


def _says_signature(registration: Registration) -> bool:
    return registration.sample is not None or registration.columns is not None or registration.result is not None


def _with_signature(registration: Registration, folder: Path, label: str) -> Model:
    """The folder's MLmodel with the signature that the options say, if they do, or that the training set shows, if nothing says one."""
    metadata = Model.load(str(folder))
    if registration.sample is not None:
        metadata.signature = sample.by_sample(folder, registration.sample, "--sample", registration.labels, label)
    elif registration.columns is not None:
        metadata.signature = sample.by_columns(registration.columns, registration.result)
    elif registration.result is not None:
        metadata.signature = sample.by_result(registration.result, metadata.signature)
    elif registration.training_set is not None and not _is_told(metadata.signature) and sample.can_read(registration.training_set):
        metadata.signature = sample.by_sample(folder, registration.training_set, "--training-set", registration.labels, label)
    metadata.save(str(folder / "MLmodel"))
    return metadata


def _is_told(signature: ModelSignature | None) -> bool:
    """Whether a signature says all: which inputs, and what comes of them."""
    if signature is None or signature.inputs is None or signature.outputs is None:
        return False
    return bool(signature.inputs.is_tensor_spec() or signature.inputs.has_input_names())


def _logged_source(registration: Registration, metadata: Model, changed: bool) -> str | None:
    """The URI of a model that the tracking server has already, exactly as it is to be registered."""
    if changed or not registration.model.startswith(("runs:/", "models:/m-")):
        return None
    return f"models:/{metadata.model_id}" if metadata.model_id else registration.model


def _run_of(model: str) -> str | None:
    return model.removeprefix("runs:/").partition("/")[0] if model.startswith("runs:/") else None


def _log(client: MlflowClient, folder: Path, metadata: Model, experiment: str, run_id: str | None, source: str, digest: str | None) -> str:
    """Log the folder as a model of the tracking server, in the run that it came from if it came from one; returns its URI."""
    tags = {"lakescore.source": redact(source), **({"lakescore.sha256": digest} if digest else {})}
    logged = client.create_logged_model(experiment, name="model", source_run_id=run_id, tags=tags)
    try:
        metadata.model_id, metadata.run_id = logged.model_id, run_id
        metadata.artifact_path = logged.artifact_location
        metadata.save(str(folder / "MLmodel"))
        client.log_model_artifacts(logged.model_id, str(folder))
    except BaseException:
        with contextlib.suppress(Exception):
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    return f"models:/{logged.model_id}"


def _create_version(client: MlflowClient, registration: Registration, source: str) -> str:
    # It reports on stderr, which is for errors here; what was registered is printed by the caller.
    with contextlib.redirect_stderr(io.StringIO()):
        created = mlflow.register_model(source, registration.name, tags=dict(registration.tags) or None)
    version = str(created.version)
    if registration.description is not None:
        client.update_model_version(registration.name, version, registration.description)
    for alias in registration.aliases:
        client.set_registered_model_alias(registration.name, alias, version)
    log.info("register: %s version %s from %s", registration.name, version, redact(registration.model))
    return version


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except LakescoreError:
        raise
    except Exception as error:
        raise ModelError(f"{what}: {getattr(error, 'message', None) or error}") from error
