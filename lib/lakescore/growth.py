"""A configuration whose texts name one another in, a refusal out where what they stand for would fill the memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lakescore.errors import ConfigError

# What is made of texts that name other keys, in characters; and how far such names may lead.
_MOST_GROWN, _MOST_LEVELS = 1 << 20, 50
_REFERENCE = re.compile(r"\$\{([^${}]+)\}")


def refuse_growth(tree: Any, origin: Callable[[Sequence[str]], str]) -> None:
    """Refuse texts that name one another so often that what they stand for would fill the memory.

    ``a2: ${a1}${a1}`` doubles ``a1``, and a chain of such keys doubles with each. OmegaConf would find out by doing it.

    Args:
        tree: the configuration with its interpolations, as they were written.
        origin: where a key was set.

    Raises:
        ConfigError: they come to too much, or are too long a chain.
    """
    sizes: dict[tuple[str, ...], int] = {}

    def size(path: tuple[str, ...], level: int) -> int:
        """Characters and values behind a key, at most; 0 inside a circle, which OmegaConf names."""
        if path in sizes:
            return sizes[path]
        if level > _MOST_LEVELS:
            raise ConfigError(f"{'.'.join(path)}: more than {_MOST_LEVELS} keys name one another (${{...}}) in a row ({origin(path)})")
        sizes[path] = 0
        node = tree
        for name in path:
            if isinstance(node, str):
                break  # it stands for what the rest of the path is in
            node = _items(node).get(name)
        if isinstance(node, str):
            sizes[path] = 1 + len(node) + sum(size(named, level + 1) for named in _named(node, path))
        else:
            sizes[path] = 1 + sum(size((*path, name), level) for name in _items(node))
        return sizes[path]

    grown = 0
    for path, text in _paths(tree):
        if _REFERENCE.search(text):
            grown += size(path, 0)
            if grown > _MOST_GROWN:
                raise ConfigError(
                    f"{'.'.join(path)}: what the keys in its ${{...}} stand for comes to more than {_MOST_GROWN:,} characters; name fewer "
                    f"({origin(path)})"
                )


def _items(node: Any) -> dict[str, Any]:
    if isinstance(node, dict):
        return {str(name): item for name, item in node.items()}
    return {str(number): item for number, item in enumerate(node)} if isinstance(node, list) else {}


def _paths(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """All texts below a node, each with where it is."""
    if isinstance(node, str):
        yield path, node
    for name, item in _items(node).items():
        yield from _paths(item, (*path, name))


def _named(text: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The keys that a text may name: ``${a.b}``, ``${.b}`` beside it, ``${a[b]}``, and those given to a resolver."""
    for found in _REFERENCE.findall(text):
        resolver, colon, given = found.partition(":")
        for key in given.split(",") if colon else [resolver]:
            rest = key.strip().lstrip(".")
            dots = len(key.strip()) - len(rest)
            parts = tuple(part for part in re.split(r"[.\[\]'\"]+", rest) if part)
            yield (*path[: max(len(path) - dots, 0)], *parts) if dots else parts
