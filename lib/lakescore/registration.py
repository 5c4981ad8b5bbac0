"""``lakescore register``: a model in, a registered version and the command that scores with it out."""

from __future__ import annotations

import shlex
from pathlib import Path

from lakescore import storage, tracking, training
from lakescore.config import TrackingConfig
from lakescore.models.register import Registered, Registration
from lakescore.models.register import register as register_version
from lakescore.models.signature import convert
from lakescore.redact import redact


def register(registration: Registration, config: TrackingConfig | None = None) -> Registered:
    """Register a model file, a folder or a run's artifact.

    Args:
        registration: what, and as what.
        config: the servers, and the experiment that a model without a run is logged to; default: MLflow's own.

    Raises:
        LakescoreError: one line that says what is wrong.
    """
    config = config or TrackingConfig()
    with storage.scratch_folder() as scratch, tracking.quiet_mlflow():
        client = tracking.client_for(config)
        return register_version(
            registration,
            client,
            config.registry_uri,
            lambda: tracking.ensure_experiment(client, config.experiment),
            scratch,
            None if registration.training_set is None else lambda folder: _statistics(registration, folder, config),
        )


def _statistics(registration: Registration, folder: Path, config: TrackingConfig) -> str:
    """The training set counted as a scoring run with the model in ``folder`` would see it, as JSON."""
    assert registration.training_set is not None, "asked by the caller"
    configured = training.configured((), (), str(folder), registration.training_set, registration.labels)
    found, _ = training.statistics(configured.model_copy(update={"tracking": config}), "--training-set")
    return found.to_json()


def describe(registered: Registered, registration: Registration, config: TrackingConfig) -> str:
    """What ``lakescore register`` prints: the version, its signature, and how to score with it."""
    aliases = f" ({', '.join(f'@{alias}' for alias in registered.aliases)})" if registered.aliases else ""
    what = registered.flavor if registered.kind in (None, registered.flavor) else f"{registered.flavor}, from {registered.kind}"
    known = convert(registered.signature)
    lines = [f"registered: {registered.name} version {registered.version}{aliases}, {what}", "inputs:"]
    if known.features is not None:
        optional = {True: "", False: " (optional)"}
        lines += [f"  {one.name}: {one.type.simpleString()}{optional[one.required]}" for one in known.features]
    elif known.unnamed is not None:
        lines += [f"  {len(known.unnamed)} without names, {known.unnamed[0].simpleString()}; in the order of columns.select"]
    elif registered.names:
        lines += [f"  {name}: as the source has it" for name in registered.names]
    else:
        lines += ["  not known: name them in columns.select, or register with --sample or --columns"]
    result = known.result.simpleString() if known.result is not None else "not known: set model.result_type"
    if registration.training_set is not None:
        lines.append(f"statistics: of {registration.training_set}, for drift")
    lines += [f"prediction: {result}", "score with it:", f"  {_command(registered, registration, config)}"]
    return redact("\n".join(lines))


def _command(registered: Registered, registration: Registration, config: TrackingConfig) -> str:
    known = convert(registered.signature)
    words = [f"model.uri={registered.uri}", f"source.path={registration.sample or 'DATA'}", "output.path=TABLE"]
    if known.features is None and not registered.names:
        words.append("columns.select=[FEATURE,...]")
    if known.result is None:
        words.append("model.result_type=double")
    for key in ("tracking_uri", "registry_uri"):
        if getattr(config, key) is not None:
            words.append(f"tracking.{key}={getattr(config, key)}")
    return " ".join(["lakescore score", *map(shlex.quote, words)])
