"""Runs on executors, as a process of its own: the user's entry script. Mini-batches in through a pipe, results out.

``script_runner.py`` starts this file as ``python -u script_process.py FD`` and talks to it over the connection with that file
descriptor. It ends when its parent ends, however that ends. This file is shipped with the script, so it imports nothing of Lakescore.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import importlib.util
import inspect
import json
import linecache
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

_PR_SET_PDEATHSIG = 1
_PLAIN = (bool, int, float, complex, str, bytes)


class WrongResultError(Exception):
    """What ``run`` returned is nothing that can be matched with items."""


class MiniBatchContext:
    """The second argument of ``run(mini_batch, mini_batch_context)``, with the names that Azure gives it.

    Attributes:
        minibatch_index: an integer that no other mini-batch of the job has.
        partition_key_value: the mini-batch's value of each partition key by name; empty without ``scoring.partition_keys``.
        dataset_name: ``input``.
    """

    def __init__(self, index: int, key: dict[str, Any]) -> None:
        self.minibatch_index = index
        self.partition_key_value = key
        self.dataset_name = "input"


def main() -> None:
    """Load the script, call ``init()`` and answer mini-batches until the other side has none."""
    connection = Connection(int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    job = connection.recv()
    _end_with(job["parent"])
    try:
        script = Script(job)
    except BaseException as error:
        connection.send(failure(error, job["folder"]))
        return
    connection.send({"ready": True})
    while True:
        try:
            request = connection.recv()
        except EOFError:
            os._exit(0)
        if request is None:
            script.shutdown()
            return
        try:
            reply = script.answer(request)
        except BaseException as error:  # sys.exit() in run() is a failure of the mini-batch too
            reply = failure(error, job["folder"])
        connection.send(reply)


def _end_with(parent: int) -> None:
    """End when the Spark worker does, also when that is killed: its end of our standard input closes then.

    A script that holds Python's lock in C code keeps the watching thread from running, so Linux is asked to do it as well.
    """
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)  # the script's own children too; the process leads its group

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Script:
    """The user's module, imported and initialised."""

    def __init__(self, job: dict[str, Any]) -> None:
        path = os.path.join(job["folder"], job["script"])
        logging.basicConfig(level=job["logging_level"], stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        sys.dont_write_bytecode = True
        sys.argv = [path, *job["arguments"]]
        # The folder of the script first, as `python score.py` would have it, then the whole source_directory.
        sys.path[:1] = list(dict.fromkeys([os.path.dirname(path), job["folder"]]))
        module = _load(path)
        self._run = _function(module, "run", 1, 2)
        assert self._run is not None
        self._takes_context = _positional(self._run) >= 2
        self._shutdown = _function(module, "shutdown", 0, 0, required=False)
        init = _function(module, "init", 0, 0, required=False)
        if init is not None:
            init()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One call of ``run``: the positions of the items that have a result, and the results."""
        if "import" in request:
            for name in request["import"]:
                importlib.import_module(name)
            return {}
        items = _frame(request["rows"]) if request["rows"] is not None else list(request["paths"])
        arguments: list[Any] = [items]
        if self._takes_context:
            arguments.append(MiniBatchContext(request["index"], request["key"]))
        assert self._run is not None
        result = self._run(*arguments)
        return matched(result, request["count"], request["paths"], request["shape"])

    def shutdown(self) -> None:
        if self._shutdown is not None:
            try:
                self._shutdown()
            except Exception:
                traceback.print_exc()


def _load(path: str) -> ModuleType:
    """Import the script under its own name, so that what it pickles can be found again."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, name: str, least: int, most: int, required: bool = True) -> Callable[..., Any] | None:
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None and not required:
        return None
    if not callable(function):
        raise TypeError(f"the script has no function {name}")
    found, needed = _positional(function), _positional(function, needed=True)
    if found < least or needed > most:
        wanted = "(mini_batch) or (mini_batch, mini_batch_context)" if name == "run" else "()"
        raise TypeError(f"{name}{inspect.signature(function)} must take {wanted}")
    return function


def _positional(function: Callable[..., Any], needed: bool = False) -> int:
    """How many positional arguments a function takes, or needs."""
    parameters = inspect.signature(function).parameters.values()
    if not needed and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 1 + sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and not (needed and p.default is not p.empty) for p in parameters)


def _frame(stream: bytes) -> Any:
    """An Arrow stream as pandas, the way Spark's own pandas functions have it: times without a zone, in the session's."""
    import pandas as pd
    import pyarrow as pa

    frame = pa.ipc.open_stream(stream).read_all().to_pandas(date_as_object=True)
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.DatetimeTZDtype):
            frame[name] = frame[name].dt.tz_localize(None)
    return frame


def matched(result: Any, count: int, paths: list[str] | None, shape: str) -> dict[str, Any]:
    """The results of one mini-batch with the positions of their items.

    By position where there are as many results as items, except that rows of a DataFrame or Series which kept the labels of the
    mini-batch's rows go by these, and texts that each begin with another file's name by that. Of fewer results without either nothing
    tells which items they are of: they are listed in order, and called ``unsure``.

    Args:
        result: what ``run`` returned: a list, tuple, numpy array, Series or DataFrame.
        count: the items of the mini-batch.
        paths: their paths, where they are files.
        shape: what a result is to be: ``text`` (a frame's row: its values with a space between; else ``str``), ``struct`` (a
            mapping; a frame's row), ``array`` (a list; a frame's row) or ``scalar`` (a value; a frame must have one column).

    Returns:
        ``returned``: how many results there were; ``positions`` and ``values``: those that have an item; ``unsure``: see above.

    Raises:
        WrongResultError: it is no such thing.
    """
    values, labels = _values(result, shape)
    answer: dict[str, Any] = {"returned": len(values), "positions": [], "values": [], "unsure": False}
    if len(values) > count:
        return answer
    positions: list[int] | None = None
    if len(values) < count and _is_counted_anew(result):
        labels = None
    if labels is not None and len(set(labels)) == len(labels) and all(isinstance(i, int) and 0 <= i < count for i in labels):
        positions = labels
    elif paths is not None and (len(values) < count or all("." in os.path.basename(path) for path in paths)):
        # A file called `7` may be named by a prediction, too.
        positions = _by_name(values, paths)
    answer["positions"] = list(range(len(values))) if positions is None else positions
    answer["unsure"] = positions is None and len(values) < count
    answer["values"] = values
    return answer


def _is_counted_anew(result: Any) -> bool:
    """Whether a frame's labels are 0, 1, 2, ... of its own, as after ``reset_index``: a filter leaves labels that are listed."""
    index: Any = getattr(result, "index", None)
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1


def _values(result: Any, shape: str) -> tuple[list[Any], list[Any] | None]:
    kind = f"{type(result).__module__.split('.')[0]}.{type(result).__name__}"
    if kind == "pandas.DataFrame":
        return (_lines(result) if shape == "text" else _rows(result, shape)), result.index.tolist()
    if kind == "pandas.Series":
        return [_one(value, shape) for value in result], result.index.tolist()
    if isinstance(result, (list, tuple)) or (kind == "numpy.ndarray" and result.ndim > 0):
        return [_one(value, shape) for value in result], None
    raise WrongResultError(f"run returned {type(result).__name__}; it must return a list, tuple, numpy array, Series or DataFrame")


def _lines(frame: Any) -> list[str]:
    """Each row as one line, its values with a space between: what append_row has of a DataFrame on Azure."""
    import csv
    import io

    lines = []
    for row in frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None):
        line = io.StringIO()
        csv.writer(line, delimiter=" ", lineterminator="").writerow(row)
        lines.append(line.getvalue())
    return lines


def _rows(frame: Any, shape: str) -> list[Any]:
    """Each row as what a result is to be."""
    columns = [[_plain(value) for value in frame.iloc[:, i]] for i in range(frame.shape[1])]
    if shape == "struct":
        names = [str(name) for name in frame.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if len(columns) == 1 and (shape == "scalar" or all(isinstance(value, list) for value in columns[0])):
        return columns[0]
    if shape == "scalar":
        raise WrongResultError(
            f"run returned a DataFrame with {len(columns)} columns, and model.result_type is one value; set it to a struct"
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _one(value: Any, shape: str) -> Any:
    if shape != "text":
        return _plain(value)
    if hasattr(value, "tolist") and int(getattr(value, "ndim", 1)) > 0:
        return json.dumps(_plain(value), default=str)  # as text numpy and PyTorch round numbers, and leave out most of a long array
    return None if value is None else str(value)


def _plain(value: Any) -> Any:
    """A value that the other side, which has not the script's libraries, can hold."""
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    kind: Any
    for kind in _PLAIN:
        if isinstance(value, kind):  # of a class that only the script has
            return kind(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    module = type(value).__module__.split(".")[0]
    if module in ("datetime", "decimal"):
        return value
    if module == "pandas":
        import pandas as pd

        if value is pd.NA or value is pd.NaT:
            return None
        if isinstance(value, pd.Timestamp):
            return value.to_pydatetime(warn=False)
    if getattr(getattr(value, "dtype", None), "kind", "") == "M" and getattr(value, "ndim", 1) == 0:
        import pandas as pd

        return pd.Timestamp(value).to_pydatetime(warn=False)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise WrongResultError(f"run returned a result of type {type(value).__name__}, which Spark cannot hold; return plain values")


def _by_name(values: list[Any], paths: list[str]) -> list[int] | None:
    """The items that the results name: each must be a text that begins with the name of exactly one file, and each another."""
    positions = []
    for value in values:
        names = [i for i, path in enumerate(paths) if isinstance(value, str) and _begins(value, path)]
        # `a.csv` and `a.csv.gz` both begin `a.csv.gz: 5`; the longer name is meant.
        names.sort(key=lambda i: -len(os.path.basename(paths[i])))
        if not names or (len(names) > 1 and os.path.basename(paths[names[0]]) == os.path.basename(paths[names[1]])):
            return None
        positions.append(names[0])
    return positions if len(set(positions)) == len(positions) else None


def _begins(value: str, path: str) -> bool:
    return any(value.startswith(name) and not value[len(name) : len(name) + 1].isalnum() for name in (path, os.path.basename(path)))


def failure(error: BaseException, folder: str) -> dict[str, Any]:
    """An exception as text: class, message, the script's own line and traceback."""
    if isinstance(error, WrongResultError):
        return {"class": "WrongResult", "message": str(error), "file": None, "line": None, "trace": None}
    frames = traceback.extract_tb(error.__traceback__)
    # Ours are above the script's; what importlib does between is no help either.
    own = [frame for frame in frames if os.path.abspath(frame.filename) != os.path.abspath(__file__) and "importlib" not in frame.filename]
    for frame in own:
        linecache.checkcache(frame.filename)
    root = os.path.join(os.path.abspath(folder), "")
    mine = [frame for frame in own if os.path.abspath(frame.filename).startswith(root)]
    file: str | None = os.path.abspath(mine[-1].filename).removeprefix(root) if mine else None
    line = mine[-1].lineno if mine else None
    if isinstance(error, SyntaxError) and error.filename and os.path.abspath(error.filename).startswith(root):
        file, line = os.path.abspath(error.filename).removeprefix(root), error.lineno
    name = type(error).__qualname__
    module = type(error).__module__
    text = [*traceback.format_list(own), *traceback.format_exception_only(type(error), error)]
    return {
        "class": name if module in ("builtins", "__main__") else f"{module}.{name}",
        "message": _printable(error.msg if isinstance(error, SyntaxError) else str(error)),
        "file": file,
        "line": line,
        "trace": "Traceback (most recent call last):\n" + _printable("".join(text)).replace(root, ""),
    }


def _printable(text: str) -> str:
    """The text without the half characters that Python makes of file names in no UTF-8, which Arrow does not hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


if __name__ == "__main__":
    main()
