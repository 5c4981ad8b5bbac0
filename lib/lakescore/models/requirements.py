"""A model's pip requirements in, what of them this Python does not meet out: seconds on the driver, not an hour later."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lakescore.errors import ModelError, listing

log = logging.getLogger(__name__)

# Distributions that bring the same modules; any of them will do.
_ALTERNATIVES = (("xgboost", "xgboost-cpu"), ("torch", "torch-cpu"), ("psycopg2", "psycopg2-binary"))
# What a model was written with must read it: these are compared by major.minor, all else by major.
_SERIALISERS = {"scikit-learn", "xgboost", "xgboost-cpu", "lightgbm", "torch", "torch-cpu", "tensorflow", "catboost", "skops"}
# What does not touch a prediction.
_IGNORED = {"mlflow", "mlflow-skinny", "pip", "setuptools", "wheel"}


@dataclass(frozen=True)
class Mismatch:
    """One requirement that is not met: what was wanted and what was found (None: nothing)."""

    package: str
    wanted: str
    found: str | None
    serious: bool

    def __str__(self) -> str:
        return f"{self.package}: wanted {self.wanted or 'any version'}, found {self.found or 'nothing'}"


def check_requirements(requirements: Iterable[str], python: str | None, policy: str) -> None:
    """Compare a model's requirements with what is installed here.

    Args:
        requirements: lines of the model's requirements.txt.
        python: the Python version that the model was logged with.
        policy: ``compatible`` refuses what is missing or of another release line (major.minor for the libraries that
            wrote the model, major for the others, minor below 1.0) and warns of the rest; ``strict`` refuses all;
            ``ignore`` checks nothing.

    Raises:
        ModelError: naming each package with the wanted and the found version.
    """
    if policy == "ignore":
        return
    mismatches = find_mismatches(requirements)
    fatal = [m for m in mismatches if policy == "strict" or m.serious]
    if fatal:
        packages = " ".join(f"'{m.package}{m.wanted}'" for m in fatal)
        raise ModelError(
            f"model.uri: this Python does not have what the model needs: {listing(fatal)}. Install it (pip install "
            f"{packages}), set model.env_manager=virtualenv, or model.requirements=ignore"
        )
    for mismatch in mismatches:
        log.warning("model: %s; predictions may differ (model.requirements=strict refuses this)", mismatch)
    here = platform.python_version()
    if python and python.split(".")[:2] != here.split(".")[:2]:
        log.warning("model: it was logged with Python %s and this is %s; a pickled model may not load", python, here)


def find_mismatches(requirements: Iterable[str]) -> list[Mismatch]:
    """The requirements that are not met, in their order; lines that are no plain requirements are passed over."""
    found = []
    for line in requirements:
        # Hashes and a continued line are pip's, not the requirement's.
        text = line.split("#", 1)[0].split(" --", 1)[0].rstrip("\\ \t\n").lstrip()
        if not text or text.startswith("-"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        name = canonicalize_name(requirement.name)
        if name in _IGNORED or (requirement.marker and not requirement.marker.evaluate()):
            continue
        installed = _installed_version(name)
        wanted = str(requirement.specifier)
        if installed is None:
            found.append(Mismatch(name, wanted, None, serious=True))
        elif not requirement.specifier.contains(installed, prereleases=True):
            found.append(Mismatch(name, wanted, installed, serious=not _same_line(name, requirement, installed)))
    return found


def _installed_version(name: str) -> str | None:
    group = next((names for names in _ALTERNATIVES if name in names), ())
    for candidate in (name, *group):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def _same_line(name: str, requirement: Requirement, installed: str) -> bool:
    """Whether a pinned version and the installed one belong to the same release line."""
    pins = [spec.version for spec in requirement.specifier if spec.operator in ("==", "===", "~=")]
    if not pins:
        return False  # an explicit range that the installed version is outside of
    try:
        wanted, found = Version(pins[0].removesuffix(".*")), Version(installed)
    except InvalidVersion:
        return False
    digits = 2 if name in _SERIALISERS or wanted.major == 0 or found.major == 0 else 1
    return wanted.release[:digits] == found.release[:digits]
