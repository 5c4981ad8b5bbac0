"""Files, values and ``key=value`` overrides in, one checked ``ScoreConfig`` out.

Precedence: defaults < files, in order < values given in Python < overrides. OmegaConf merges and interpolates.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from pathlib import Path, PurePath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lakescore.config import EXCLUSIVE_KEYS, OF_SOURCE_PATH, OWN_FOLDER, ROW_FILES, RunConfig, ScoreConfig, Section, keys_of, section_of
from lakescore.errors import ConfigError, did_you_mean, listing
from lakescore.growth import refuse_growth
from lakescore.redact import hide, hide_parts, is_secret_key, redact, redact_tree
from lakescore.strict_yaml import parse_value, parse_yaml

COMMAND_LINE = "command line"
GIVEN_VALUES = "given values"
# A device, or a data file that is given by mistake, is not read to its end.
_MOST_BYTES = 16 << 20
_NUL, _SURROGATE = re.compile("\0"), re.compile("[\ud800-\udfff]")
_FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)")
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "model_type": "a section (key: value)",
    "model_attributes_type": "a section (key: value)",
    "tuple_type": "a name or a list",
    "list_type": "a list",
    "date_type": "a date like 2026-01-31",
}

Layer = tuple[str, dict[str, Any]]


def compose(
    files: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    day: date | None = None,
) -> ScoreConfig:
    """Merge all layers and check the result.

    Args:
        files: YAML files; a later one wins over an earlier one.
        overrides: ``section.key=value``; they win over everything.
        values: nested values given by a Python caller.
        now: the time at which the run starts (aware); default: the clock.
        day: the run's date, whatever the layers say, which becomes a part of the batch's ID.

    Raises:
        ConfigError: naming the key, what was given and where, and what is expected.
    """
    _refuse_types(files, overrides, values)
    layers: list[Layer] = [(str(file), read_file(Path(file))) for file in files]
    aside: dict[str, Any] = {}
    if values is not None:
        tree, aside = _set_rows_aside(_plain(values))
        layers.append((GIVEN_VALUES, tree))
    layers += [(COMMAND_LINE, override) for override in map(parse_override, overrides)]
    origins = _Origins(layers)
    try:
        merged = _merge(layers)
        refuse_growth(OmegaConf.to_container(merged), origins.of)
        merged = _fixed_at_start(merged, now or datetime.now(timezone.utc), origins, day)
    except OmegaConfBaseException as error:  # a section that is an interpolation itself
        raise ConfigError(_interpolation(error, origins)) from error
    resolved = _resolve(merged, origins)
    _hide_secrets(layers, resolved)
    _refuse_odd_characters(resolved, origins)
    tree = _put_rows_back(resolved, aside)
    try:
        config = ScoreConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from error
    if config.source.incremental is not None:
        _refuse_other_place_each_day(merged, origins)
    return config


def _refuse_types(files: Any, overrides: Any, values: Any) -> None:
    """What a Python caller has given by mistake; the command line gives texts."""
    if values is not None and not isinstance(values, Mapping):
        hint = "; rows to score are data=" if hasattr(values, "columns") or hasattr(values, "schema") else ""
        raise ConfigError(f"config: got {type(values).__name__}; expected a YAML file's path, several, or a mapping of sections{hint}")
    for name, given, kinds in (("config", files, (str, PurePath)), ("overrides", overrides, (str,))):
        listed = isinstance(given, Sequence) and not isinstance(given, (str, bytes))
        if not listed or not all(isinstance(one, kinds) for one in given):
            wanted = "['section.key=value', ...]" if name == "overrides" else "a YAML file's path, or several"
            raise ConfigError(f"{name}: got {given!r:.80}; expected {wanted}")


def _refuse_other_place_each_day(merged: Any, origins: _Origins) -> None:
    """What has been scored already is kept beside one source and one output: with others tomorrow, all would be new again.

    And a batch that a crash has left over is made tomorrow, of the same rows.
    """
    trees = []
    for day in ("2000-01-01", "2000-01-02"):
        merged["run"]["date"] = day
        trees.append(_resolve(merged, origins))
    for section, key in (
        ("source", "path"),
        ("source", "table"),
        ("source", "query"),
        ("source", "incremental"),
        ("source", "filter"),
        ("output", "path"),
        ("output", "table"),
    ):
        if trees[0][section].get(key) != trees[1][section].get(key):
            raise ConfigError(
                f"{section}.{key}: with source.incremental it must be the same each day, and ${{run.date}} is in it "
                f"({origins.of([section, key])})"
            )


def _hide_secrets(layers: Sequence[Layer], resolved: Any) -> None:
    """What a variable called like a secret holds stays one, whatever key it is given to, and so do the passwords in URIs."""
    for _, text in _texts(resolved):
        hide_parts(text)
    for name in _FROM_ENVIRONMENT.findall(repr([tree for _, tree in layers])):
        if is_secret_key(name):
            hide(os.environ.get(name, ""))


def _refuse_odd_characters(resolved: Any, origins: _Origins) -> None:
    """What no file, database or server takes, and each would refuse in its own words; a reader's option may mean a NUL."""
    for path, text in _texts(resolved):
        odd = _SURROGATE.search(text)
        if odd is None and path[:2] not in (["source", "options"], ["source", "rows"]):
            odd = _NUL.search(text)
        if odd is not None:
            what = "a NUL" if odd.group() == "\0" else "bytes that are no UTF-8"
            key = ".".join(path).encode("utf-8", "backslashreplace").decode()
            raise ConfigError(f"{key}: got {text!r} ({_kind(text)}); it holds {what} ({origins.of(path)})")


def _texts(tree: Any, at: Sequence[str] = ()) -> Iterator[tuple[list[str], str]]:
    """All texts of a tree, and where each is; the names of keys too."""
    if isinstance(tree, str):
        yield [*at], tree
    elif isinstance(tree, dict):
        for name, item in tree.items():
            if isinstance(name, str):
                yield [*at, name], name
            yield from _texts(item, (*at, str(name)))
    elif isinstance(tree, list):
        for item in tree:
            yield from _texts(item, at)


def _set_rows_aside(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Python caller's rows are data of any type, in which ``${`` and ``???`` mean nothing: a token takes them past OmegaConf."""
    source = tree.get("source")
    if not isinstance(source, dict) or source.get("rows") is None:
        return tree, {}
    token = f"rows-{uuid.uuid4().hex}"
    return {**tree, "source": {**source, "rows": token}}, {token: source["rows"]}


def _put_rows_back(tree: Any, aside: Mapping[str, Any]) -> Any:
    source = tree.get("source") if isinstance(tree, dict) else None
    if isinstance(source, dict) and isinstance(source.get("rows"), str):
        source["rows"] = aside.get(source["rows"], source["rows"])
    return tree


def _plain(value: Any, at: tuple[str, ...] = ()) -> Any:
    """A Python caller's paths, tuples and date as a file would give them."""
    if isinstance(value, Mapping):
        return {name: _plain(item, (*at, str(name))) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, at) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    is_date = isinstance(value, date) and not isinstance(value, datetime)
    return value.isoformat() if is_date and at == ("run", "date") else value


def read_file(path: Path) -> dict[str, Any]:
    """Read one YAML file as a mapping of sections."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(
                f"--config: {path} has more than {_MOST_BYTES >> 20} MB and is no configuration; data belong into source.path"
            )
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"--config: {path} does not exist.{did_you_mean(path.name, siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"--config: {path} cannot be read: {reason}") from error
    tree = parse_yaml(text, str(path))
    if tree is None:
        raise ConfigError(f"{path}: is empty; expected sections such as model:, source: and output:")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections at the top (model:, source:, ...); found {_kind(tree)}")
    return tree


def parse_override(text: str) -> dict[str, Any]:
    """Turn ``section.key=value`` into a nested mapping; only the first ``=`` separates.

    Values are text, numbers, true/false or null as in the files; a value that begins with ``[`` or ``{`` is a YAML
    list or mapping, and quotes keep a number as text. Below a mapping such as ``spark.conf`` the rest of the key is one
    name: ``spark.conf.spark.sql.shuffle.partitions=4``.
    """
    key, separator, raw = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"override {text!r}: expected section.key=value")
    path = _split_key(key)
    if "" in path:
        raise ConfigError(f"override {text!r}: expected section.key=value; a part of the key is empty")
    value: Any = parse_value(raw.strip(), f"override {key}", path)
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def _split_key(key: str) -> list[str]:
    """Split a dotted key at the borders of sections; what follows a mapping's name is one name."""
    path: list[str] = []
    section: type[Section] | None = ScoreConfig
    rest = key
    while section is not None:
        name, dot, rest = rest.partition(".")
        path.append(name)
        if not dot:
            break
        parent, section = section, section_of(section, name)
        if section is None:
            return [*path, rest] if name in keys_of(parent) else [*path, *rest.split(".")]
    return path


def _merge(layers: Iterable[Layer]) -> Any:
    merged: Any = OmegaConf.create({})
    for origin, layer in layers:
        # A section whose keys are all commented out is null in YAML and means the defaults.
        tree = {name: section for name, section in layer.items() if section is not None}
        for section, group in EXCLUSIVE_KEYS.items():
            given = tree.get(section)
            chosen = [key for key in group if isinstance(given, dict) and given.get(key) is not None]
            if chosen and isinstance(merged.get(section), Mapping):
                for key in group:
                    # By del: looking the old value up would resolve its interpolation, which is no longer wanted.
                    with contextlib.suppress(KeyError, OmegaConfBaseException):
                        del merged[section][key]
                        if key == "path" and section == "source" and key not in chosen:
                            _delete(merged[section], OF_SOURCE_PATH)
        _drop_replaced(merged, tree)
        try:
            merged = OmegaConf.unsafe_merge(merged, OmegaConf.create(tree))
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            where, reason = getattr(error, "full_key", None), str(getattr(error, "msg", None) or error).splitlines()[0]
            raise ConfigError(f"{where}: {reason} ({origin})" if where else f"{origin}: {reason}") from error
    return merged


def _delete(section: Any, keys: Sequence[str]) -> None:
    for key in keys:
        with contextlib.suppress(KeyError):
            del section[key]


def _drop_replaced(merged: Any, tree: Mapping[str, Any]) -> None:
    """Remove what a value of another kind replaces: OmegaConf would refuse a list for a mapping without naming the key."""
    for name, value in tree.items():
        old = merged._get_node(name)
        if OmegaConf.is_dict(old) and isinstance(value, Mapping):
            _drop_replaced(old, value)
        elif OmegaConf.is_config(old) and not (OmegaConf.is_list(old) and isinstance(value, list)):
            del merged[name]


def _fixed_at_start(tree: Any, now: datetime, origins: _Origins, day: date | None) -> Any:
    """Fill in what is decided once, when the run starts: its date in its time zone, and its batch."""
    if "run" not in tree:
        tree["run"] = {}
    run: Any = tree["run"]
    if not OmegaConf.is_dict(run):
        return tree
    zone = _lookup(run, "timezone", origins) or "UTC"
    if day is not None:
        run["date"] = day.isoformat()
    if _lookup(run, "date", origins) is None:
        # The check of the time zone itself says what is wrong with it.
        with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            run["date"] = now.astimezone(zoneinfo.ZoneInfo(str(zone))).date().isoformat()
    _own_folder(tree, run, now, origins)
    given = _lookup(run, "batch_id", origins)
    if day is not None:
        name = str(given) if given is not None else _slug(run, origins)
        run["batch_id"] = name if day.isoformat() in name else f"{name}-{day.isoformat()}"
    elif given is None and _is_incremental(tree):
        run["batch_id"] = _slug(run, origins)  # what the IDs of its batches begin with
    elif given is None:
        on_rerun = _lookup(run, "on_rerun", origins)
        if on_rerun in ("replace", "fail"):
            where = origins.of(["run", "on_rerun"])
            raise ConfigError(f"run.on_rerun: {on_rerun} needs run.batch_id; without one each run makes a new batch ({where})")
        run["batch_id"] = f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    return tree


def _is_incremental(tree: Any) -> bool:
    source = tree.get("source")
    return bool(OmegaConf.is_dict(source) and OmegaConf.is_dict(source._get_node("incremental")))


def _slug(run: Any, origins: _Origins) -> str:
    """The run's name as a batch's ID may be."""
    name = str(_lookup(run, "name", origins) or RunConfig().name)
    return re.sub(r"[^A-Za-z0-9]+$|^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._-]+", "-", name)) or RunConfig().name


def _own_folder(tree: Any, run: Any, now: datetime, origins: _Origins) -> None:
    """A file without ``output.path`` goes into the run's own folder, ``outputs/DATE/TIME`` in its time zone."""
    output = tree.get("output")
    if not OmegaConf.is_dict(output) or not ROW_FILES.get(str(_lookup(output, "format", origins, "output"))):
        return
    if _lookup(output, "path", origins, "output") is None and _lookup(output, "table", origins, "output") is None:
        with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            zone = zoneinfo.ZoneInfo(str(_lookup(run, "timezone", origins) or "UTC"))
            output["path"] = now.astimezone(zone).strftime(OWN_FOLDER)


def _lookup(section: Any, key: str, origins: _Origins, name: str = "run") -> Any:
    try:
        return section.get(key)
    except OmegaConfBaseException as error:
        raise ConfigError(_interpolation(error, origins, f"{name}.{key}")) from error


def _resolve(tree: Any, origins: _Origins) -> Any:
    try:
        return OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_interpolation(error, origins)) from error


def _interpolation(error: OmegaConfBaseException, origins: _Origins, asked: str = "") -> str:
    key = str(error.full_key or error.key or asked)
    reason = str(error.msg or error).splitlines()[0]
    if "Environment variable" in reason and "not found" in reason:
        name = reason.split("'")[1] if "'" in reason else ""
        reason = f"the environment variable {name} is not set; export it, or give a default: ${{oc.env:{name},value}}"
    return f"{key}: {reason} ({origins.of(key.split('.'))})"


class _Origins:
    """Which layer a key was last set by, so that an error can name the file or the command line."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    def of(self, path: Sequence[str | int]) -> str:
        for origin, tree in reversed(self._layers):
            node: Any = tree
            for name in path:
                node = node.get(str(name), ...) if isinstance(node, Mapping) else ...
                if node is ...:
                    break
            else:
                return origin
        if len(path) > 1:
            return self.of(path[:-1])
        return self._layers[0][0] if self._layers else "defaults"


def _explain(error: ValidationError, origins: _Origins) -> str:
    problems = error.errors(include_url=False)
    # An unknown key is named before a missing one: it is usually the same mistake.
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    path = _yaml_path(first["loc"])
    same_key = [problem for problem in problems if _yaml_path(problem["loc"]) == path]
    what = _explain_one(path, same_key)
    # What is wrong between sections begins with the key that it is about.
    where = path or re.split(r"[^a-z_.]", what, maxsplit=1)[0].split(".")
    message = f"{what} ({origins.of(where)})"
    others = sorted({".".join(map(str, _yaml_path(p["loc"]))) for p in problems} - {".".join(map(str, path))})
    return f"{message}; also wrong: {listing(others)}" if others else message


def _yaml_path(location: tuple[str | int, ...]) -> list[str | int]:
    """The part of a pydantic location that is a key or an index of the YAML, without its names of union members."""
    path: list[str | int] = []
    section: type[Section] | None = ScoreConfig
    for part in location:
        if section is None and isinstance(part, str) and path and not _inside_mapping(path):
            continue
        path.append(part)
        section = section_of(section, str(part)) if section is not None else None
    return path


def _inside_mapping(path: Sequence[str | int]) -> bool:
    return len(path) == 2 and path[-1] in ("params", "rename", "cast", "conf", "options", "tags", "side_inputs")


def _explain_one(path: Sequence[str | int], problems: Sequence[ErrorDetails]) -> str:
    problem = problems[0]
    key = ".".join(map(str, path))
    kind = problem["type"]
    if kind == "extra_forbidden":
        section = _section_at(path[:-1])
        known = keys_of(section)
        hint = did_you_mean(str(path[-1]), known)
        return f"{key}: unknown key.{hint or f' Known keys: {listing(known, 12)}.'}"
    if kind == "missing":
        return f"{key}: is required"
    if kind == "value_error" and _section_at(path) is not None and isinstance(problem["input"], dict):
        reason = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {reason}" if key else reason
    expected = " or ".join(dict.fromkeys(_expected(p) for p in problems)).replace(" or expected ", " or ")
    return f"{key}: got {_shown(key, problem['input'])}; {expected}"


def _expected(problem: ErrorDetails) -> str:
    kind = problem["type"]
    if kind == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    if kind == "literal_error":
        choices = str(problem.get("ctx", {}).get("expected", "")).replace(" or ", ", ").replace("'", "")
        hint = did_you_mean(str(problem["input"]), choices.split(", "))
        return f"expected one of {choices}.{hint}" if hint else f"expected one of {choices}"
    if kind in _EXPECTED:
        quoted = kind == "string_type" and isinstance(problem["input"], (bool, float))
        return f"expected {_EXPECTED[kind]}" + ("; put it in quotes to keep it as text" if quoted else "")
    return problem["msg"].replace("Input should be", "must be").replace("String should", "must")


def _section_at(path: Sequence[str | int]) -> Any:
    section: type[Section] | None = ScoreConfig
    for part in path:
        section = section_of(section, str(part)) if section is not None else None
    return section


def _shown(key: str, value: Any) -> str:
    if is_secret_key(key):
        return "***"
    # Redacted whole, then cut: half a URI would show the password before its @.
    text = redact(repr(redact_tree(value)))
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({_kind(value)})"


def _kind(value: Any) -> str:
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
