"""The source's DataFrame in, the kept columns and one struct of features out: the model gets its inputs by name, in its order.

Order: rename, then select and drop, then cast. ``plan`` looks at schemas only; ``transform`` and ``features`` apply the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import session
from lakescore.casts import Problems, explicit_cast, is_number_cast, safe_cast
from lakescore.config import ALL_FEATURES, ColumnsConfig
from lakescore.errors import ConfigError, InputError, ModelError, NeedsSparkError, did_you_mean, listing, look_alikes, nearest
from lakescore.schema import UNREADABLE, Feature, Signature, Tensor, column, is_same

_INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)


@dataclass(frozen=True)
class Input:
    """One input of the model: the column it is made of (None: absent, passed as null) and both types."""

    feature: Feature
    column: str | None
    found: T.DataType | None
    explicit: bool = False

    def expression(self, problems: Problems = None) -> Column:
        """The input as a column of its wanted type; ``problems`` as in ``casts.safe_cast``."""
        if self.column is None or self.found is None:
            return F.lit(None).cast(self.feature.type)
        if self.explicit:
            return explicit_cast(self.column, self.found, self.feature.type, problems)
        cast = safe_cast(self.column, self.found, self.feature.type, problems)
        if cast is None:
            raise InputError(_mismatch(self.feature, self.column, self.found))
        return cast

    def check(self) -> None:
        """See that there is a safe way from the one type to the other.

        Raises:
            InputError: there is none.
            NeedsSparkError: only Spark can tell, and there is no session.
        """
        if self.found is None or is_same(self.found, self.feature.type) or is_number_cast(self.found, self.feature.type, self.explicit):
            return
        if not session.is_there():
            raise NeedsSparkError(f"column {self.column!r} is cast to {self.feature.type.simpleString()}")
        self.expression()

    def __str__(self) -> str:
        if self.column is None or self.found is None:
            return f"{self.feature.name}: null (absent, optional)"
        wanted, found = self.feature.type.simpleString(), self.found.simpleString()
        types = wanted if is_same(self.found, self.feature.type) else f"{found} -> {wanted}"
        return f"{self.feature.name}: {types}" + (f" (column {self.column})" if self.column != self.feature.name else "")


@dataclass(frozen=True)
class Alignment:
    """What happens to the source's columns, decided before any task runs.

    Attributes:
        source: every column of the source with its name here, in the source's order; a dropped one maps to None.
        casts: the types that ``columns.cast`` asks for, by name.
        kept: the columns that stay, in order; types: theirs, after the casts.
        inputs: the model's inputs, in its order.
        keys, labels: as configured, checked.
        content: the column of what is in the files that the rows stand for; None where there is none.
    """

    source: tuple[tuple[str, str | None], ...]
    casts: Mapping[str, T.DataType]
    kept: tuple[str, ...]
    inputs: tuple[Input, ...]
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    content: str | None = None
    types: Mapping[str, T.DataType] = field(default_factory=dict)

    @property
    def integers(self) -> tuple[str, ...]:
        """Inputs in which a null is refused, because pandas could hold it only by making the batch floats."""
        return tuple(i.feature.name for i in self.inputs if isinstance(i.feature.type, _INTEGERS) and i.column is not None)

    @property
    def absent(self) -> tuple[str, ...]:
        """Optional integers that the source has not: the model is called without them, as MLflow itself would."""
        return tuple(i.feature.name for i in self.inputs if isinstance(i.feature.type, _INTEGERS) and i.column is None)


_NO_ORDER = "JSON objects have no order (Spark sorts their fields by name; source.schema gives them one)"


def plan(
    schema: T.StructType,
    config: ColumnsConfig,
    signature: Signature,
    case_sensitive: bool,
    content: str | None = None,
    in_order: bool = True,
) -> Alignment:
    """Decide which columns stay and what each input of the model is made of.

    Args:
        schema: the source's.
        config: the section ``columns``.
        signature: the model's.
        case_sensitive: whether Spark tells ``a`` from ``A``.
        content: the column that the model is for, where the others only describe a file. Unless ``columns.select`` says otherwise, it
            is all that a model gets that names no inputs, and the one input that the source has not by name.
        in_order: whether the columns are in an order that somebody has chosen, so that positions mean something.

    Raises:
        ConfigError: the section contradicts itself, or has positions where there are none.
        InputError: a column is missing, ambiguous, or of a type that does not fit.
        ModelError: the model does not say what it takes, and neither does ``columns.select``.
    """
    names = [one.name for one in schema.fields]
    if not in_order:
        _refuse_positions(config)
    _refuse_duplicates(names, case_sensitive, "the source")
    renamed = _renamed(names, config.rename)
    _refuse_duplicates(renamed, case_sensitive, "columns.rename")
    select = _named("columns.select", config.select, renamed)
    drop = _named("columns.drop", config.drop, renamed)
    keys, labels = _named("columns.keys", config.keys, renamed), _named("columns.labels", config.labels, renamed)
    _refuse_contradictions({"columns.select": select, "columns.drop": drop, "columns.keys": keys, "columns.labels": labels})
    staying = set(select) | set(keys) | set(labels) if select else set(renamed) - set(drop)
    kept = tuple(name for name in renamed if name in staying)
    types = {new: one.dataType for new, one in zip(renamed, schema.fields, strict=True)}
    casts = {name: _parse_cast(name, text) for name, text in config.cast.items() if name != ALL_FEATURES}
    _named("columns.cast", tuple(casts), list(kept))
    for name, wanted in casts.items():
        explicit_cast(name, types[name], wanted)
    casts |= _types_of_nulls(kept, types, casts, signature)
    kept_types = {name: casts.get(name, types[name]) for name in kept}
    every = _parse_cast(ALL_FEATURES, config.cast[ALL_FEATURES]) if ALL_FEATURES in config.cast else None
    candidates = [name for name in (select or kept) if name not in (*keys, *labels)]
    content = config.rename.get(content, content) if content else None
    preset = content if content in candidates and not select else None
    if not (in_order or select) and signature.unnamed is not None and not signature.names and len(candidates) > 1:
        raise InputError(
            f"columns.select: is required, because the model takes {len(signature.unnamed)} input(s) without names, and {_NO_ORDER}; list "
            "the features in the model's order"
        )
    inputs = _inputs(signature, kept_types, [preset] if preset else candidates, bool(select), every, labels, renamed, preset)
    source = tuple((old, new if new in staying else None) for old, new in zip(names, renamed, strict=True))
    return Alignment(source, casts, kept, inputs, keys, labels, content, kept_types)


def transform(df: DataFrame, alignment: Alignment, aside: tuple[str, str] | None = None) -> DataFrame:
    """The kept columns under their new names, with the configured casts.

    Args:
        df: the source; why a file of it could not be decoded may stand beside its columns (``UNREADABLE``).
        alignment: the plan.
        aside: the names of two more columns: the source's row as it was, a struct, and what is wrong with a row, a text or null; a value
            that cannot be cast is then null instead of the end of the run.
    """
    fields = [one for one in df.schema.fields if one.name != UNREADABLE]
    problems: Problems = ([column(UNREADABLE)] if UNREADABLE in df.columns else []) if aside else None
    # Positions, not names: a column renamed to another's old name must not be taken for it.
    chosen = []
    for found, (old, new) in zip(fields, alignment.source, strict=True):
        if new is None:
            continue
        wanted = alignment.casts.get(new)
        value = column(old) if wanted is None else explicit_cast(old, found.dataType, wanted, problems)
        chosen.append(value.alias(new))
    if aside is not None:
        row, problem = aside
        chosen.append(F.struct(*[column(one.name) for one in fields]).alias(row))
        chosen.append(F.coalesce(*(problems or []), F.lit(None).cast("string")).alias(problem))
    return df.select(*chosen)


def features(alignment: Alignment, beside: Mapping[str, Column] | None = None, problem: str | None = None) -> Column:
    """The model's inputs as one struct in its order; more than 255 of them, and odd names, are no matter.

    Args:
        alignment: the plan.
        beside: further fields of the struct, which no model sees, by name.
        problem: the field and column that says what is wrong with a row; what is found here is added to it, a null in an integer too.
    """
    problems: Problems = [column(problem)] if problem is not None else None
    fields = [_field(one, problems).alias(one.feature.name) for one in alignment.inputs]
    fields += [value.alias(alias) for alias, value in (beside or {}).items()]
    if problems is not None and problem is not None:
        fields.append(F.coalesce(*problems).alias(problem))
    return F.struct(*fields)


def _field(one: Input, problems: Problems) -> Column:
    value = one.expression(problems)
    if problems is None or one.column is None or not isinstance(one.feature.type, _INTEGERS):
        return value
    # Pandas could hold the null only by making the other rows' integers floats.
    problems.append(F.when(value.isNull(), F.lit(f"column {one.column!r} is null, and the model takes it as an integer")))
    return F.coalesce(value, F.lit(0).cast(one.feature.type))


def _renamed(names: Sequence[str], rename: Mapping[str, str]) -> list[str]:
    for old in rename:
        if old not in names:
            raise InputError(_unknown("columns.rename", old, names))
    return [rename.get(name, name) for name in names]


def _refuse_positions(config: ColumnsConfig) -> None:
    for key, wanted in (("select", config.select), ("drop", config.drop), ("keys", config.keys), ("labels", config.labels)):
        if any(isinstance(name, int) for name in wanted):
            raise ConfigError(f"columns.{key}: takes names here and no positions, because {_NO_ORDER}")


def _named(key: str, wanted: Iterable[str | int], names: Sequence[str]) -> tuple[str, ...]:
    """Names and positions as names; each must exist."""
    result: list[str] = []
    for name in wanted:
        if isinstance(name, int):
            if name >= len(names):
                raise InputError(f"{key}: position {name} is beyond the last column; the source has {len(names)}, counted from 0")
            name = names[name]
        elif name not in names:
            raise InputError(_unknown(key, name, names))
        if name in result:
            raise ConfigError(f"{key}: {name!r} is listed twice")
        result.append(name)
    return tuple(result)


def _unknown(key: str, name: str, names: Sequence[str]) -> str:
    hint = did_you_mean(name, names)
    return f"{key}: there is no column {name!r}.{hint or f' The source has {listing(names, 12)}.'}"


def _refuse_duplicates(names: Sequence[str], case_sensitive: bool, where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        folded = name if case_sensitive else name.casefold()
        if folded in seen:
            how = "twice" if seen[folded] == name else f"as {seen[folded]!r} and {name!r}"
            mend = "" if seen[folded] == name else ", or set spark.conf.spark.sql.caseSensitive=true"
            raise InputError(f"{where}: the column {name!r} is there {how}, and Spark could not tell which is meant; rename one{mend}")
        seen[folded] = name


def _refuse_contradictions(lists: Mapping[str, Sequence[str]]) -> None:
    for first, second in (
        ("columns.select", "columns.drop"),
        ("columns.drop", "columns.keys"),
        ("columns.drop", "columns.labels"),
        ("columns.keys", "columns.labels"),
        ("columns.select", "columns.labels"),
    ):
        both = [name for name in lists[first] if name in lists[second]]
        if both:
            raise ConfigError(f"{first} and {second} contradict each other: both list {listing(map(repr, both))}")


def _parse_cast(name: str, text: str) -> T.DataType:
    try:
        return session.parse_type(text)
    except NeedsSparkError:
        raise
    except Exception as error:
        raise ConfigError(f"columns.cast.{name}: got {text!r}; expected a Spark type such as double, long, string or date") from error


def _types_of_nulls(
    kept: Sequence[str], types: Mapping[str, T.DataType], casts: Mapping[str, T.DataType], signature: Signature
) -> dict[str, T.DataType]:
    """Columns without a type, because all their values are null, take the model's; no table could hold them as they are."""
    wanted = {feature.name: feature.type for feature in signature.features or ()}
    untyped = [name for name in kept if name not in casts and _is_untyped(types[name])]
    for name in untyped:
        if name not in wanted:
            raise InputError(f"column {name!r} has no type, because all its values are null: columns.cast={{{name}: string}}, or drop it")
    return {name: wanted[name] for name in untyped}


def _is_untyped(kind: T.DataType) -> bool:
    return isinstance(kind, T.NullType) or (isinstance(kind, T.ArrayType) and _is_untyped(kind.elementType))


def _inputs(
    signature: Signature,
    types: Mapping[str, T.DataType],
    candidates: Sequence[str],
    selected: bool,
    every: T.DataType | None,
    labels: Sequence[str],
    all_names: Sequence[str],
    content: str | None,
) -> tuple[Input, ...]:
    if signature.features is not None:
        needed = {feature.name for feature in signature.features}
        spare = [name for name in all_names if name not in needed]
        missing = [feature for feature in signature.features if feature.required and feature.name not in all_names]
        fed = missing[0] if content in spare and len(missing) == 1 and _may_feed(types[content], missing[0].type) else None
        inputs = [
            Input(feature, content, types[str(content)])
            if feature is fed
            else _named_input(feature, types, every, labels, all_names, spare, [one.name for one in missing])
            for feature in signature.features
        ]
    elif signature.names:
        # The model knows its inputs by name and takes them as they are.
        spare = [name for name in all_names if name not in signature.names]
        wanted = [Feature(name, every or types.get(name, T.NullType())) for name in signature.names]
        absent = [feature.name for feature in wanted if feature.name not in all_names]
        inputs = [_named_input(feature, types, every, labels, all_names, spare, absent) for feature in wanted]
    elif signature.unnamed is not None:
        unnamed = signature.unnamed
        is_array = len(candidates) == 1 and isinstance(types[candidates[0]], T.ArrayType)
        if is_array and signature.tensor and not isinstance(unnamed[0], T.ArrayType):
            unnamed = (T.ArrayType(unnamed[0]),)  # a tensor (-1, n) may come as n columns or as one array
        inputs = _unnamed_inputs(unnamed, types, candidates, selected, every, signature.tensor)
    else:
        if not selected and not content:
            raise ModelError(
                "columns.select: is required, because the model's signature declares no inputs; list the features in the model's order"
            )
        inputs = [Input(Feature(name, every or types[name]), name, types[name], every is not None) for name in candidates]
    if not inputs:
        raise InputError("columns: no feature is left for the model; look at columns.select, drop, keys and labels")
    for one in inputs:
        one.check()
    return tuple(inputs)


def _named_input(
    feature: Feature,
    types: Mapping[str, T.DataType],
    every: T.DataType | None,
    labels: Sequence[str],
    all_names: Sequence[str],
    spare: Sequence[str],
    missing: Sequence[str],
) -> Input:
    if feature.name in labels:
        raise ConfigError(f"columns.labels: {feature.name!r} is an input of the model and cannot be a label")
    if feature.name in types:
        found = types[feature.name]
        explicit = every is not None and is_same(every, feature.type)
        return Input(feature, feature.name, found, explicit)
    if feature.name in all_names:
        raise InputError(f"columns: {feature.name!r} is an input of the model, and columns.select or columns.drop leaves it out")
    if not feature.required:
        return Input(feature, None, None)
    raise InputError(
        f"the source has no column {feature.name!r}{_of_type(feature.type)}, which the model needs."
        + (_rename_hint(feature.name, spare, missing) or f" The source has {listing(all_names, 12)}.")
    )


def _may_feed(found: T.DataType, wanted: T.DataType) -> bool:
    """Whether a file's content may be taken for an input of another name: nothing is parsed for that."""
    return is_same(found, wanted) or (isinstance(found, T.ArrayType) and isinstance(wanted, T.ArrayType))


def _of_type(kind: T.DataType) -> str:
    return "" if isinstance(kind, T.NullType) else f" ({kind.simpleString()})"


def _rename_hint(name: str, spare: Sequence[str], missing: Sequence[str]) -> str:
    """The nearest column, and how all that are missing are renamed: LightGBM, for one, writes each blank in a name as an underscore."""
    near = nearest(name, spare)
    if not near:
        return ""
    pairs, left = {near: name}, [one for one in spare if one != near]
    for other in missing:
        found = nearest(other, left) if other != name else None
        if found:
            pairs[found] = other
            left.remove(found)
    renames = ", ".join(f"{old}: {new}" for old, new in pairs.items())
    return f" Did you mean {near!r}?{look_alikes(name, near)} If so: columns.rename={{{renames}}}."


def _unnamed_inputs(
    wanted: Sequence[T.DataType],
    types: Mapping[str, T.DataType],
    candidates: Sequence[str],
    selected: bool,
    every: T.DataType | None,
    tensor: Tensor | None,
) -> list[Input]:
    if len(candidates) != len(wanted):
        what = "columns.select lists" if selected else "without columns.select all remaining columns are taken, which are"
        raise InputError(
            f"the model takes {len(wanted)} input(s) without names; {what} {len(candidates)} ({listing(candidates)}). "
            "List the features in the model's order in columns.select"
        )
    return [
        Input(
            Feature(name, kind, tensor=tensor if isinstance(kind, T.ArrayType) else None),
            name,
            types[name],
            every is not None and is_same(every, kind),
        )
        for name, kind in zip(candidates, wanted, strict=True)
    ]


def _mismatch(feature: Feature, name: str, found: T.DataType) -> str:
    wanted = feature.type.simpleString()
    what = f"column {name!r} is {found.simpleString()} and the model needs {wanted}; there is no safe cast."
    try:
        explicit_cast(name, found, feature.type)
    except InputError:
        return f"{what} Convert it before (source.query), or log the model with this input's type"
    return (
        f"{what} If it is right to convert it: columns.cast={{{name}: {wanted}}} (or columns.cast={{'*': {wanted}}} for all features "
        "of this type)"
    )
