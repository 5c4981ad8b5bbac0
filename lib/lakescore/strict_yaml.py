"""YAML text in, plain values out, and nothing changed on the way.

PyYAML speaks YAML 1.1, where ``no`` is false, ``0123`` is 83 and ``2026-01-31`` is a date. Here only the
JSON-like forms are typed (true/false, null, decimal numbers); whatever else is written stays the text it is. Below the
keys of ``TEXT_KEYS`` numbers with a point are text too: the Spark setting 1.10 is not 1.1.
Tags, duplicate keys and keys that are not text are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import yaml

from lakescore.errors import ConfigError

# Aliases may repeat a node; a document that unfolds beyond this many nodes is an attack or a mistake.
MAX_NODES = 200_000
MAX_DEPTH = 64
# Mappings whose values end as text, in a document of sections.
TEXT_KEYS = (("spark", "conf"), ("source", "options"))
_STR = "tag:yaml.org,2002:str"
_FLOAT = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """A safe loader with the type rules of the module's docstring."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            problem = f"the YAML tag {tag} is not allowed; write plain values only"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        pairs = []
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem="merge keys (<<) are not supported", problem_mark=key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key_node.value)
            # A key is what is written: 1, true and null are names here. The node may be a value elsewhere, by an alias.
            pairs.append((yaml.ScalarNode(_STR, key_node.value, key_node.start_mark, key_node.end_mark), value_node))
        return super().construct_mapping(yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark), deep=deep)


_DIGITS = list("-+.0123456789")
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:0|-?[1-9][0-9]*)$", _DIGITS),
    ("float", r"^[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]+)?$", _DIGITS),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    if text.lstrip("+-").startswith((".i", ".n")):
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    value = float(text)
    if math.isinf(value):
        raise yaml.MarkedYAMLError(problem=f"the number {node.value} is too large", problem_mark=node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str, origin: str, at: Sequence[str] = ()) -> Any:
    """Parse one YAML document.

    Args:
        text: the document.
        origin: what an error names: a file, or an override.
        at: the keys under which the document stands.

    Raises:
        ConfigError: the text is not YAML, or holds something that could change a value silently.
    """
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: is not valid YAML: {error}") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_bombs(node, origin)
        _keep_as_text(node, list(at))
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{origin}{where}: {_explain(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{origin}: is not valid YAML: {reason}") from error
    finally:
        loader.dispose()


def parse_value(text: str, origin: str, at: Sequence[str] = ()) -> Any:
    """Parse the value of an override: a list or mapping in YAML, text in quotes, or the typed or plain text as it is.

    Nothing of plain text is taken for YAML: ``a = 'x' # y``, ``a: b`` and ``&a`` arrive as they are written.

    Raises:
        ConfigError: a list or mapping is broken.
    """
    if text[:1] in ("[", "{"):
        return parse_yaml(text, origin, at)
    if text[:1] in ("'", '"'):
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.YAMLError:
            return text
        return node.value if isinstance(node, yaml.ScalarNode) and node.end_mark.index == len(text) else text
    tag = _Loader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return text if tag == _STR else parse_yaml(text, origin, at)


def _keep_as_text(node: yaml.Node, at: list[str]) -> None:
    """Retag the numbers with a point below ``TEXT_KEYS``."""
    for path in TEXT_KEYS:
        if at[: len(path)] == list(path):
            below = [node]
        elif list(path[: len(at)]) == at:
            below = _nodes_at(node, path[len(at) :])
        else:
            continue
        values = [value for found in below if isinstance(found, yaml.MappingNode) for _, value in found.value]
        for value in [*values, *(found for found in below if isinstance(found, yaml.ScalarNode))]:
            if value.tag == _FLOAT:
                value.tag = _STR


def _nodes_at(node: yaml.Node, path: Sequence[str]) -> list[yaml.Node]:
    nodes = [node]
    for name in path:
        pairs = [pair for found in nodes if isinstance(found, yaml.MappingNode) for pair in found.value]
        nodes = [value for key, value in pairs if key.value == name]
    return nodes


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "is not valid YAML"
    return f"{error.context}, {problem}" if problem.startswith("but ") and error.context else problem


def _refuse_bombs(root: yaml.Node, origin: str) -> None:
    """Count the nodes as they would unfold, aliases included, and refuse what is too many, too deep or endless."""
    count = 0
    stack = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise ConfigError(f"{origin}: the document unfolds to more than {MAX_NODES} values or {MAX_DEPTH} levels")
        if isinstance(node, yaml.SequenceNode):
            stack.extend((child, depth + 1) for child in node.value)
        elif isinstance(node, yaml.MappingNode):
            stack.extend((child, depth + 1) for pair in node.value for child in pair)
