"""Score any MLflow model over any table or folder with Spark, whole or not at all.

``from lakescore import score``. The package itself imports nothing: reading a configuration or printing an error must
not cost the import of Spark and MLflow.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from lakescore.version import __version__

__all__ = [
    "Checkup",
    "Deletion",
    "Finding",
    "LakescoreError",
    "Registration",
    "ScoreConfig",
    "ScoreResult",
    "__version__",
    "delete_batch",
    "doctor",
    "dry_run",
    "read",
    "register",
    "replay",
    "score",
]

if TYPE_CHECKING:
    from lakescore.checkup import Checkup, Finding, doctor
    from lakescore.config import ScoreConfig
    from lakescore.deletion import Deletion, delete_batch
    from lakescore.errors import LakescoreError
    from lakescore.models.register import Registration
    from lakescore.pipeline import dry_run, replay, score
    from lakescore.registration import register
    from lakescore.result import ScoreResult
    from lakescore.results import read

# In a notebook without ipywidgets tqdm says, when MLflow imports it, that its bars will be plain. None is drawn.
warnings.filterwarnings("ignore", message="IProgress not found")

_HOMES = {
    "Checkup": "lakescore.checkup",
    "Deletion": "lakescore.deletion",
    "Finding": "lakescore.checkup",
    "LakescoreError": "lakescore.errors",
    "Registration": "lakescore.models.register",
    "ScoreConfig": "lakescore.config",
    "ScoreResult": "lakescore.result",
    "delete_batch": "lakescore.deletion",
    "doctor": "lakescore.checkup",
    "dry_run": "lakescore.pipeline",
    "read": "lakescore.results",
    "register": "lakescore.registration",
    "replay": "lakescore.pipeline",
    "score": "lakescore.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
