"""Runs on executors: the native libraries of this process held to some threads.

Spark runs one task for each ``spark.task.cpus`` cores; a model that takes all cores in each of them has many threads for each core.
Neither the model nor its results change: only what its libraries take for the number of cores. Imports nothing of Lakescore, because
it is shipped beside ``guard.py``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

# What libraries read when they are loaded, and joblib whenever it is asked for all cores (n_jobs=-1; scikit-learn, LightGBM).
_VARIABLES = (
    "LOKY_MAX_CPU_COUNT",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
# Of this process: what takes back the last hold, for the next model, which may want it otherwise.
_undo: list[Callable[[], object]] = []


def hold(threads: int | None) -> None:
    """Let the libraries use so many threads from now on, those that are loaded and those that are not yet.

    Libraries that are loaded later read the environment; call it again after them for those that do not (PyTorch).

    Args:
        threads: for each process; None: as it was before the first call.
    """
    while _undo:
        _undo.pop()()
    if threads is None:
        return
    for name in _VARIABLES:
        _undo.append(_setter(name, os.environ.get(name)))
        os.environ[name] = str(threads)
    _hold_native(threads)
    _hold_torch(threads)


def _setter(name: str, value: str | None) -> Callable[[], object]:
    return lambda: os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _hold_native(threads: int) -> None:
    """BLAS and OpenMP, with it XGBoost and LightGBM, that are loaded already."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return
    _undo.append(threadpool_limits(limits=threads).restore_original_limits)


def _hold_torch(threads: int) -> None:
    torch = sys.modules.get("torch")
    if torch is None:
        return
    before = torch.get_num_threads()
    _undo.append(lambda: torch.set_num_threads(before))
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # once the threads between operators run, their number stays
        torch.set_num_interop_threads(threads)
