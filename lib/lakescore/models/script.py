"""``model.entry_script`` in, a checked script out: its file, the files that go with it, and what it is stamped as.

Nothing of the script runs here: ``init`` and ``run`` are looked for in its syntax tree.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient

from lakescore import storage
from lakescore.config import ModelConfig
from lakescore.errors import ModelError, did_you_mean, listing
from lakescore.models import resolve
from lakescore.models.resolve import ResolvedModel
from lakescore.redact import redact
from lakescore.schema import Signature

# What goes to the workers may not be larger: the folder of a project often holds its data, too.
MAX_BYTES = 300_000_000
_NOT_SHIPPED = ("__pycache__", "mlruns", "node_modules", "spark-warehouse")
FLAVOR = "entry_script"


@dataclass(frozen=True)
class Script:
    """A script that has what a script must have.

    Attributes:
        uri: ``file://`` and its absolute path.
        name: its path relative to the folder that is shipped.
        files: what is shipped: path relative to the folder -> file.
        digest: SHA-256 over their names and contents.
    """

    uri: str
    name: str
    files: dict[str, Path]
    digest: str


def load(config: ModelConfig) -> Script:
    """Find the script and check it.

    Args:
        config: the section ``model``, with ``entry_script``.

    Raises:
        ModelError: it is not there, does not parse, has no ``run`` or one of another signature, or its folder is too large.
    """
    folder, path = _locate(config)
    _check(path)
    files = dict(_files(folder))
    name = path.relative_to(folder).as_posix()
    files.setdefault(name, path)
    _refuse_large(files, folder)
    digest = hashlib.sha256()
    for relative, file in sorted(files.items()):
        digest.update(relative.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return Script(f"file://{path}", name, files, digest.hexdigest())


def resolve_with_model(
    config: ModelConfig, script: Script, client: MlflowClient, registry_uri: str | None, download_to: Path
) -> tuple[ResolvedModel, Path | None]:
    """What the rows are stamped with, and the folder that the script finds its model in.

    Args:
        config: the section ``model``.
        script: the script.
        client: for the tracking server and the registry.
        registry_uri: the registry, where it is not the tracking server.
        download_to: an empty folder of this run.

    Returns:
        The pinned model, or the script itself where it has none; and the model's folder. A raw file (``model.pkl``) lies in the
        folder under its own name.

    Raises:
        ModelError: the model cannot be found.
    """
    if config.uri is None:
        stamp = ResolvedModel(
            uri=redact(script.uri),
            version=f"sha256:{script.digest[:16]}",
            path=Path(script.uri.removeprefix("file://")).parent,
            digest=script.digest,
            signature=Signature(),
            flavor=FLAVOR,
        )
        return stamp, None
    pinned, version, path = resolve.fetch_any(config, client, registry_uri, download_to)
    folder = path
    if path.is_file():
        folder = download_to.parent / "raw_model"
        folder.mkdir(exist_ok=True)
        (folder / path.name).symlink_to(path)
    digest = resolve.digest_of(folder)
    return ResolvedModel(redact(pinned), version or f"sha256:{digest[:16]}", folder, digest, Signature(), FLAVOR), folder


def _locate(config: ModelConfig) -> tuple[Path, Path]:
    """The folder that is shipped and the script in it; the script may be given relative to the folder, or to where we are."""
    given = config.entry_script or ""
    if storage.scheme_of(given) != "file":
        raise ModelError(f"model.entry_script: {given} must be a file on this machine")
    path = Path(storage.absolute(given))
    folder = Path(storage.absolute(config.source_directory)) if config.source_directory else path.parent
    if config.source_directory:
        if not folder.is_dir():
            raise ModelError(f"model.source_directory: {config.source_directory} is no folder (looked for {folder})")
        inside = folder / given
        path = inside if inside.is_file() or not path.is_file() else path
    if not path.is_file():
        siblings = [child.name for child in path.parent.iterdir() if child.suffix == ".py"] if path.parent.is_dir() else []
        what = "is a folder; give the Python file in it" if path.is_dir() else f"does not exist (looked for {path})"
        raise ModelError(f"model.entry_script: {given} {what}.{did_you_mean(path.name, siblings)}")
    folder, path = folder.resolve(), path.resolve()
    if folder not in path.parents:
        raise ModelError(f"model.entry_script: {given} is not in model.source_directory {config.source_directory}")
    return folder, path


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The folder's files but hidden ones, caches and virtual environments."""
    for where, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and name not in _NOT_SHIPPED and not Path(where, name, "pyvenv.cfg").is_file()
        ]
        for name in sorted(names):
            path = Path(where, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _refuse_large(files: dict[str, Path], folder: Path) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = PurePosixPath(max(sizes, key=lambda name: sizes[name]))
        raise ModelError(
            f"model.entry_script: its folder {folder} goes to the workers and has {total / 1e6:,.0f} MB (the largest file is {largest}); "
            f"at most {MAX_BYTES / 1e6:,.0f} MB may. Put the script into a folder of its own (model.source_directory), and large files "
            "into model.uri or model.side_inputs"
        )


def _check(path: Path) -> None:
    try:
        tree = ast.parse(path.read_bytes(), filename=path.name)
    except SyntaxError as error:
        line = f" line {error.lineno}" if error.lineno else ""  # of null bytes Python does not say where
        raise ModelError(f"model.entry_script: {path.name}{line}: {error.msg}") from error
    except ValueError as error:
        raise ModelError(f"model.entry_script: {path.name} is no Python file: {error}") from error
    functions = {node.name: node for node in _top_level(tree.body) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    names = set(functions) | set(_bound_otherwise(tree.body))
    if "run" not in names and "*" not in names:
        found = did_you_mean("run", functions) or f" It has {listing(functions)}."
        raise ModelError(f"model.entry_script: {path.name} has no function run(mini_batch).{found}")
    for name, function in functions.items():
        if name in ("init", "run", "shutdown"):
            _check_function(path.name, function)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported, those in ``if`` and ``try`` too."""
    for node in body:
        yield node
        for block in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                yield from _top_level(getattr(node, block, []))
        for handler in getattr(node, "handlers", []):
            yield from _top_level(handler.body)


def _bound_otherwise(body: list[ast.stmt]) -> Iterator[str]:
    for node in _top_level(body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _check_function(script: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    where = f"model.entry_script: {script} line {function.lineno}: {function.name}({ast.unparse(function.args)})"
    if isinstance(function, ast.AsyncFunctionDef):
        raise ModelError(f"{where} is a coroutine; write def, not async def")
    arguments = function.args
    most = len(arguments.posonlyargs) + len(arguments.args)
    least = most - len(arguments.defaults)
    needs_names = any(default is None for default in arguments.kw_defaults)
    if function.name == "run":
        fits = least <= 2 and (most >= 1 or arguments.vararg is not None) and not needs_names
        wanted = "run(mini_batch) or run(mini_batch, mini_batch_context)"
    else:
        fits, wanted = least == 0 and not needs_names, f"{function.name}()"
    if not fits:
        raise ModelError(f"{where} must be {wanted}")
