"""``model.allowed_roots``: a model that comes from anywhere else is refused, whatever its path pretends."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from lakescore import storage
from lakescore.errors import ModelError, listing


def check(uri: str, roots: Sequence[str], label: str) -> None:
    """Refuse a model outside of the roots; without roots nothing is checked.

    A root is a folder, or the beginning of a URI: ``models:/churn``, ``runs:/``, ``s3://bucket/models``. What counts is where a path
    really leads, all links followed, those inside of a model's folder too. Detours (``a/../b``) and percent-encoded dots are
    refused even where they would end inside: no model needs them, and what reads the URI later may read it otherwise.

    Args:
        uri: as configured.
        roots: as configured; relative ones are the working directory's.
        label: how the error names the model.

    Raises:
        ModelError: naming the URI and the roots.
    """
    if not roots:
        return
    allowed = f"model.allowed_roots allows {listing(roots)}"
    if _has_detour(uri):
        raise ModelError(f"{label} takes a detour by '..' or percent-encoded dots, which is refused: {allowed}")
    if storage.scheme_of(uri) != "file":
        if not any(_is_below(uri, root) for root in roots):
            raise ModelError(f"{label} is outside of the folders that models may come from: {allowed}")
        return
    folders = [os.path.realpath(storage.absolute(root)) for root in roots if storage.scheme_of(root) == "file"]
    path = storage.absolute(uri)
    for one in (path, *_links_below(path)):
        real = os.path.realpath(one)
        if not any(Path(real).is_relative_to(folder) for folder in folders):
            leads = "" if real == path else f" ({one} leads to {real})" if one != path else f" (it leads to {real})"
            raise ModelError(f"{label} is outside of the folders that models may come from{leads}: {allowed}")


def _has_detour(uri: str) -> bool:
    """``..`` behind a name, or dots that are encoded once or several times; leading ``../..`` is an ordinary relative path."""
    decoded = uri
    while (again := unquote(decoded)) != decoded:
        decoded = again
    if re.search(r"%(?:25)*2e", uri, re.IGNORECASE):
        return True
    parts = [part for part in re.split(r"[/\\]", decoded) if part not in ("", ".")]
    first = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return ".." in parts[first:]


def _is_below(uri: str, root: str) -> bool:
    if storage.scheme_of(root) == "file":
        return False
    beginning = root.rstrip("/")
    # `models:/churn` is the beginning of models:/churn/3 and models:/churn@champion, not of models:/churn_test/1.
    return uri == beginning or (uri.startswith(beginning) and uri[len(beginning)] in "/@")


def _links_below(path: str) -> list[str]:
    """The links in a model's folder; beside a model's file, those that Python could import."""
    if os.path.isfile(path):
        folder = os.path.dirname(path)
        return [entry.path for entry in os.scandir(folder) if entry.is_symlink() and (entry.name.endswith(".py") or entry.is_dir())]
    found = []
    for folder, folders, files in os.walk(path):
        found += [link for name in (*folders, *files) if os.path.islink(link := os.path.join(folder, name))]
    return found
