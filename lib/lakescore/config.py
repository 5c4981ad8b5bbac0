"""Every key of the configuration: its type, its default and what it may be.

Frozen pydantic models, one per section, without I/O. ``compose`` makes a ``ScoreConfig`` of files and
overrides; each stage of the pipeline receives only its own section.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import date as Date
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, model_validator

from lakescore.recurrence import Cron, Days, Elapsed, Recurrence, parse_cron, parse_every

# As `lakescore.drift.measures` has them.
Measure = Literal["tvd", "hellinger", "kld", "psi", "jensen_shannon", "kolmogorov_smirnov", "wasserstein"]
# The last three give one row for each file.
FileFormat = Literal["parquet", "delta", "csv", "json", "orc", "avro", "images", "text_files", "binary"]
ROW_PER_FILE = ("images", "text_files", "binary")
# The column by whose dates every table is partitioned.
PARTITION = "score_date"
# In columns.cast: all features of the model's type.
ALL_FEATURES = "*"
# Only one of each group may be set; a later file or override that sets one unsets the others.
EXCLUSIVE_KEYS = {"source": ("path", "table", "query", "rows", "data"), "output": ("path", "table")}
# What says how source.path is read, and goes with it when a later file or override sets another source.
OF_SOURCE_PATH = ("format", "options", "image")
# One file for the whole batch instead of a table, and what it is called; None: nothing is written.
ROW_FILES = {"jsonl": "batch-infer-res.jsonl", "append_row": "parallel_run_step.txt", "summary_only": None}
# Java's largest int, which Spark takes for numbers of rows and tasks.
_INT = 2**31 - 1
# The run's own folder, by its time of start.
OWN_FOLDER = "outputs/%Y-%m-%d/%H-%M-%S"
_FILE_NAME_BYTES = 200
_BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=~-]{0,127}")


def _integers_as_text(value: Any) -> Any:
    """``batch_id: 20261121`` means the text; a number that text could not give back stays an error."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _as_tuple(value: Any) -> Any:
    """A single name stands for a list of one."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _as_numbers(value: Any) -> Any:
    """A single number stands for a list of one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _height_and_width(value: tuple[int, ...]) -> tuple[int, ...]:
    if len(value) != 2:
        raise ValueError("must be two numbers, [height, width]")
    return value


def _arrays_as_lists(value: Any) -> Any:
    """A Python caller's arrays and Series as lists, whether they are all rows, one row, or a column."""
    if isinstance(value, dict):
        return {name: _list_of(item, 1) for name, item in value.items()}
    rows = _list_of(value, 2)
    return [_list_of(row, 1) for row in rows] if isinstance(rows, list) else rows


def _list_of(value: Any, dimensions: int) -> Any:
    is_array = hasattr(value, "__array__") and getattr(value, "ndim", 0) == dimensions and not hasattr(value, "columns")
    return list(value) if is_array else value


def _options_as_text(value: Any) -> Any:
    """Spark's options are text: ``true`` and ``10`` are written without quotes by everyone."""
    if not isinstance(value, dict):
        return value
    return {
        name: str(item).lower() if isinstance(item, bool) else str(item) if isinstance(item, (int, float)) else item
        for name, item in value.items()
    }


def _fraction(value: Any) -> Any:
    """``1/255`` is how people write it."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9.]+\s*/\s*[0-9.]*[1-9][0-9.]*\s*", value):
        numerator, denominator = value.split("/")
        return float(numerator) / float(denominator)
    return value


def _iso_date(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("must be a date like 2026-01-31")
    return Date.fromisoformat(value)


def _is_time(text: str) -> bool:
    try:
        return bool(datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text)))
    except ValueError:
        return False


def _known_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be an IANA time zone such as UTC or Europe/Vienna") from None
    return value


def _plain_file_name(value: str) -> str:
    if "/" in value or "\\" in value or value.startswith((".", "_")):
        raise ValueError("must be a file's name without a folder, and not begin with . or _; the folder is output.path")
    # File systems hold 255 bytes, and the record beside the file has a longer name.
    if not value.isprintable() or len(value.encode()) > _FILE_NAME_BYTES:
        raise ValueError(f"must be a file's name of at most {_FILE_NAME_BYTES} bytes without control characters")
    return value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must be distinct")
    return values


def is_batch_id(value: str) -> bool:
    """Whether a batch may be called so."""
    return bool(_BATCH_ID.fullmatch(value))


def _safe_batch_id(value: str) -> str:
    if not is_batch_id(value):
        raise ValueError("must be 1 to 128 letters, digits or any of . _ : + @ = ~ -, beginning with a letter or digit")
    return value


def _cron_line(value: Any) -> Any:
    """A line stands for a schedule that has nothing else to say."""
    return {"cron": value} if isinstance(value, str) else value


def mini_batch_limit(value: str) -> tuple[int | None, int | None]:
    """``scoring.mini_batch_size`` as (items, bytes), one of which is None: ``5`` are items, ``10KB`` and ``1MiB`` bytes.

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch(r"\d+", value.strip()):
        items, size = int(value), None
    else:
        try:
            if not re.search(r"[A-Za-z]", value):
                raise ValueError
            items, size = None, int(TypeAdapter(ByteSize).validate_python(value))
        except ValueError:
            raise ValueError("must be a number of items such as 5, or bytes such as 10KB, 1MB or 1MiB") from None
    if (items or size or 0) < 1:
        raise ValueError("must be at least 1")
    return items, size


def _mini_batch_size(value: str) -> str:
    mini_batch_limit(value)
    return value


def _not_our_tags(tags: dict[str, str]) -> dict[str, str]:
    """By these tags a run is found again: as the maker of a batch, or as one that died."""
    for name in tags:
        if name.startswith("lakescore."):
            raise ValueError(f"{name} is a tag that Lakescore sets itself; choose another name")
        if name == "mlflow.runName":
            raise ValueError("mlflow.runName is run.name here")
    return tags


Text = Annotated[str, BeforeValidator(_integers_as_text), AfterValidator(_not_empty)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]
NamesOrPositions = Annotated[tuple[Annotated[int, Field(ge=0)] | str, ...], BeforeValidator(_as_tuple)]
Options = Annotated[dict[str, str], BeforeValidator(_options_as_text)]
TextByName = dict[str, Text]
Size = Annotated[tuple[Annotated[int, Field(ge=1, le=65_535)], ...], BeforeValidator(_as_tuple), AfterValidator(_height_and_width)]
Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], BeforeValidator(_as_numbers)]


class Section(BaseModel):
    """What all sections share: no unknown keys, no silent conversion, no change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), ser_json_inf_nan="constants")

    def require_one_of(self, section: str) -> None:
        """Raise unless exactly one of the section's exclusive keys is set."""
        keys = EXCLUSIVE_KEYS[section]
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"exactly one of {', '.join(keys)} must be set; found {found}")


class RunConfig(Section):
    """What this run is called, which batch it makes, and for which day."""

    name: Text = "lakescore"
    batch_id: Annotated[Text, AfterValidator(_safe_batch_id)] | None = None
    on_rerun: Literal["skip", "replace", "fail"] = "skip"
    date: Annotated[Date, BeforeValidator(_iso_date)] | None = None
    timezone: Annotated[Text, AfterValidator(_known_zone)] = "UTC"


class ModelConfig(Section):
    """Which model or entry script scores, and how it is called."""

    uri: Text | None = None
    entry_script: Text | None = None
    source_directory: Text | None = None
    arguments: Names = ()
    side_inputs: TextByName = {}
    env_manager: Literal["local", "virtualenv", "uv", "conda"] = "local"
    params: dict[str, Any] = {}
    predict_method: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    device: Annotated[Text, Field(pattern=r"^(cpu|cuda(:[0-9]+)?)$")] | None = None
    result_type: Text | None = None
    requirements: Literal["compatible", "strict", "ignore"] = "compatible"
    python_class: Annotated[Text, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    input_shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_tuple), Field(min_length=1)] | None = None
    allowed_roots: Names = ()

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.uri is None and self.entry_script is None:
            raise ValueError("uri must be set: the model that scores; or entry_script, a Python file with init() and run(mini_batch)")
        if self.entry_script is None:
            for key in ("source_directory", "arguments", "side_inputs"):
                if getattr(self, key):
                    raise ValueError(f"{key} belongs to entry_script, which is not set")
        elif self.predict_method is not None or self.params or self.env_manager != "local":
            key = "predict_method" if self.predict_method else "params" if self.params else "env_manager"
            raise ValueError(f"{key} is for a model that Lakescore calls; with entry_script the script itself calls it")
        for name in self.side_inputs:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):
                raise ValueError(f"side_inputs: {name!r} must be a name that can be an option (--{name} PATH) of the script")
        return self


class ImageConfig(Section):
    """What ``source.format: images`` makes of a file: its bytes, or its pixels as a flat array of floats of a fixed shape."""

    as_: Literal["array", "bytes"] = Field(default="array", alias="as")
    size: Size | None = None
    mode: Literal["L", "RGB"] = "RGB"
    layout: Literal["chw", "hwc"] = "chw"
    scale: Annotated[float, BeforeValidator(_fraction), Field(gt=0, allow_inf_nan=False)] = 1.0
    mean: Numbers = ()
    std: Numbers = ()

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The array's shape; None for bytes."""
        if self.size is None:
            return None
        channels = 1 if self.mode == "L" else 3
        return (channels, *self.size) if self.layout == "chw" else (*self.size, channels)

    @model_validator(mode="after")
    def _check(self) -> ImageConfig:
        if self.as_ == "bytes":
            fields = type(self).model_fields
            given = [key for key in fields if key != "as_" and getattr(self, key) != fields[key].default]
            if given:
                raise ValueError(f"{given[0]} belongs to as: array; bytes are the file's own")
            return self
        if self.size is None:
            raise ValueError("size is required, for example size: [28, 28] (height, width); or set as: bytes")
        channels = 1 if self.mode == "L" else 3
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values and len(values) != channels:
                raise ValueError(f"{key} has {len(values)} value(s), and mode {self.mode} has {channels} channel(s)")
        if 0 in self.std:
            raise ValueError("std must not be 0")
        return self


IncrementalBy = Literal["versions", "changes", "files", "column"]


class IncrementalConfig(Section):
    """How a run knows what no run before it has scored, and where that is kept."""

    by: IncrementalBy
    column: Text | None = None
    start: Text | None = None
    state: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> IncrementalConfig:
        if (self.column is not None) != (self.by == "column"):
            raise ValueError("column is the watermark of by: column, and required there")
        if self.start is None or self.by == "column":
            return self
        may_be_version = self.by in ("versions", "changes")
        if not (may_be_version and self.start.isascii() and self.start.isdigit()) and not _is_time(self.start):
            wanted = "a version, or a time" if may_be_version else "a time"
            raise ValueError(f"start must be {wanted} like 2026-01-31 or 2026-01-31T06:00:00Z; got {self.start!r}")
        return self


class SourceConfig(Section):
    """What is scored: files, a table, a query or rows."""

    path: Names | None = None
    table: Text | None = None
    query: Text | None = None
    rows: Annotated[list[Any] | dict[str, list[Any]], BeforeValidator(_arrays_as_lists)] | None = None
    data: Literal["pandas", "arrow", "spark"] | None = None
    format: FileFormat | None = None
    options: Options = {}
    image: ImageConfig | None = None
    ddl: Text | None = Field(default=None, alias="schema")
    filter: Text | None = None
    limit: Annotated[int, Field(ge=0, le=_INT)] | None = None
    version: Annotated[int, Field(ge=0)] | None = None
    timestamp: Text | None = None
    incremental: IncrementalConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> SourceConfig:
        self.require_one_of("source")
        self._check_incremental()
        if self.version is not None and self.timestamp is not None:
            raise ValueError("version and timestamp exclude each other")
        travels = self.version is not None or self.timestamp is not None
        if travels and self.table is None and not (self.path is not None and self.format in (None, "delta")):
            raise ValueError("version and timestamp need a Delta table: source.table, or source.path with format delta")
        if self.format is not None and self.path is None:
            raise ValueError("format belongs to source.path")
        if self.image is not None and self.format != "images":
            raise ValueError("image belongs to format: images")
        if self.ddl is not None and self.format in ROW_PER_FILE:
            raise ValueError(f"schema does not belong to format {self.format}, which has columns of its own")
        if self.options and self.path is None:
            raise ValueError("options belong to source.path")
        if self.ddl is not None and self.path is None and self.rows is None:
            raise ValueError("schema belongs to source.path or source.rows; a table and a query have their own")
        return self

    def _check_incremental(self) -> None:
        if self.incremental is None:
            return
        by = self.incremental.by
        for key in ("version", "timestamp", "limit"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} and incremental exclude each other: what a batch reads is what is new")
        given = next(key for key in EXCLUSIVE_KEYS["source"] if getattr(self, key) is not None)
        suited = {"files": ("path",), "column": ("path", "table", "query")}.get(by, ("path", "table"))
        if given not in suited:
            raise ValueError(f"incremental.by: {by} needs source.{' or source.'.join(suited)}; found {given}")
        if by == "files" and self.format == "delta":
            raise ValueError("incremental.by: files is not for Delta tables, whose files are no rows; take versions or changes")
        if by in ("versions", "changes") and self.format not in (None, "delta"):
            raise ValueError(f"incremental.by: {by} needs a Delta table; got format {self.format}")
        if by in ("versions", "changes") and self.path is not None and len(self.path) != 1:
            raise ValueError(f"incremental.by: {by} needs one Delta table; found {len(self.path)} paths")


class ColumnsConfig(Section):
    """Which columns are features, which are kept, and what they are called."""

    select: NamesOrPositions = ()
    drop: NamesOrPositions = ()
    labels: Names = ()
    keys: Names = ()
    rename: TextByName = {}
    cast: TextByName = {}


class ScoringConfig(Section):
    """How the work is spread."""

    engine: Literal["auto", "fast", "spark_udf"] = "auto"
    batch_size: Annotated[int, Field(ge=1, le=_INT)] | None = None
    partitions: Annotated[int, Field(ge=1, le=_INT)] | None = None
    mini_batch_size: Annotated[Text, AfterValidator(_mini_batch_size)] | None = None
    partition_keys: Names = ()
    processes: Annotated[int, Field(ge=1)] | None = None
    run_timeout: Annotated[float, Field(gt=0)] = 60.0
    run_max_try: Annotated[int, Field(ge=1)] = 3
    logging_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    allow_reuse: bool = False

    @model_validator(mode="after")
    def _check(self) -> ScoringConfig:
        if self.mini_batch_size is not None and self.partition_keys:
            raise ValueError("mini_batch_size and partition_keys exclude each other: with keys, the rows of one are one mini-batch")
        return self


class ErrorsConfig(Section):
    """What happens to rows that cannot be scored."""

    on_row_error: Literal["fail", "quarantine"] = "fail"
    error_threshold: Annotated[int, Field(ge=-1)] | None = None
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    quarantine: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> ErrorsConfig:
        limits = [key for key in ("error_threshold", "max_failed_fraction", "quarantine") if getattr(self, key) is not None]
        if self.on_row_error == "fail" and limits:
            raise ValueError(f"{limits[0]} needs on_row_error: quarantine")
        if self.error_threshold is not None and self.max_failed_fraction is not None:
            raise ValueError("error_threshold and max_failed_fraction exclude each other")
        return self


class ClassesConfig(Section):
    """How the probabilities of a classifier become a probability and a label; without labels, not at all."""

    labels: Annotated[Names, AfterValidator(_distinct)] = ()
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    probability: Text | None = "probability"
    label: Text = "label"

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are written."""
        return (self.label,) if self.probability is None else (self.probability, self.label)

    @model_validator(mode="after")
    def _check(self) -> ClassesConfig:
        if len(self.labels) == 1:
            raise ValueError("labels must be at least two, in the order of the model's classes")
        return self


class DriftConfig(Section):
    """Whether the batch still looks like the data that the model was trained on, and what follows where it does not."""

    enabled: bool | None = None
    reference: Text | None = None
    possible_threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    detected_threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.7
    measures: Annotated[tuple[Measure, ...], BeforeValidator(_as_tuple), AfterValidator(_distinct)] = ()
    on_drift: Literal["warn", "fail"] = "warn"
    table: Text | None = None
    folder: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> DriftConfig:
        if not 0 < self.possible_threshold < self.detected_threshold < 1:
            raise ValueError(
                "possible_threshold and detected_threshold must be 0 < possible_threshold < detected_threshold < 1; got "
                f"{self.possible_threshold:g} and {self.detected_threshold:g}"
            )
        if self.enabled is False and self.on_drift == "fail":
            raise ValueError("on_drift: fail needs enabled: true, or null")
        return self


class OutputConfig(Section):
    """Where predictions go, and which columns stand beside them."""

    path: Text | None = None
    table: Text | None = None
    format: Literal["delta", "parquet", "jsonl", "append_row", "summary_only"] = "delta"
    file: Annotated[Text, AfterValidator(_plain_file_name)] | None = None
    fields: TextByName = {}
    lineage: bool = False
    partition_by: Text = PARTITION
    columns: Literal["all", "keys"] | Names = "all"
    prediction: Text | Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)] = "prediction"
    classes: ClassesConfig = ClassesConfig()
    merge_schema: bool = False

    @property
    def is_row_file(self) -> bool:
        """Whether the batch is one file, not rows of a table."""
        return self.format in ROW_FILES

    @property
    def is_own_folder(self) -> bool:
        """Whether the path is the run's own, which nobody chose."""
        try:
            return self.is_row_file and self.path is not None and bool(datetime.strptime(self.path, OWN_FOLDER))
        except ValueError:
            return False

    @property
    def prediction_names(self) -> tuple[str, ...]:
        """The columns that hold the prediction, where it is not a struct whose outputs are still to be counted."""
        if self.classes.labels:
            return self.classes.names
        return (self.prediction,) if isinstance(self.prediction, str) else self.prediction

    @model_validator(mode="after")
    def _check(self) -> OutputConfig:
        if self.is_row_file:
            if self.table is not None:
                raise ValueError(f"format {self.format} makes a file; give output.path, or neither path nor table for outputs/DATE/TIME")
            if self.fields and self.format != "jsonl":
                raise ValueError(f"fields belong to format jsonl; got {self.format}")
            return self
        for key in ("file", "fields"):
            if getattr(self, key):
                raise ValueError(f"{key} belongs to the formats that write one file (jsonl, append_row); got {self.format}")
        self.require_one_of("output")
        if self.table is not None and self.format != "delta":
            raise ValueError("format parquet needs output.path: Spark cannot add a batch to a Parquet catalog table atomically")
        return self


class TrackingConfig(Section):
    """Where the run is recorded."""

    tracking_uri: Text | None = None
    registry_uri: Text | None = None
    experiment: Text = "lakescore"
    tags: Annotated[TextByName, AfterValidator(_not_our_tags)] = {}


class SparkConfig(Section):
    """What runs the job: the Spark session, where there is none yet, or this machine's processes without Spark."""

    backend: Literal["auto", "spark", "embedded"] = "auto"
    master: Text | None = None
    conf: Options = {}


class ScheduleConfig(Section):
    """When ``lakescore serve`` runs the pipeline, in the time zone ``run.timezone``."""

    cron: Names = ()
    every: Text | None = None
    on: Names = ()
    at: Names = ()
    start: Annotated[Date, BeforeValidator(_iso_date)] | None = None
    catch_up: Literal["none", "last", "all"] = "last"
    catch_up_limit: Annotated[int, Field(ge=1, le=1_000)] = 10
    overlap: Literal["skip", "queue"] = "skip"

    def recurrence(self, zone: str) -> Recurrence:
        """The moments that it means.

        Args:
            zone: IANA name.
        """
        return Recurrence(self._rules(), zoneinfo.ZoneInfo(zone))

    def _rules(self) -> tuple[Cron | Days | Elapsed, ...]:
        if self.every is not None:
            return (parse_every(self.every, self.on, self.at, self.start),)
        return tuple(parse_cron(line) for line in self.cron)

    @model_validator(mode="after")
    def _check(self) -> ScheduleConfig:
        if bool(self.cron) == (self.every is not None):
            raise ValueError("exactly one of cron, every must be set, as in cron: 0 6 * * * or every: week")
        for key in ("on", "at", "start"):
            if self.cron and getattr(self, key):
                raise ValueError(f"{key} belongs to every; a cron line says it itself")
        self._rules()
        return self


class ServiceConfig(Section):
    """The pipeline as ``lakescore serve`` runs it; ``lakescore score`` makes no use of it."""

    allow: Names = ()
    schedule: Annotated[ScheduleConfig | None, BeforeValidator(_cron_line)] = None
    command: Literal["lakescore", "spark-submit"] = "lakescore"
    submit_options: Names = ()
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    retry_delay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    first_rows: Annotated[int, Field(ge=0, le=100)] = 10

    @model_validator(mode="after")
    def _check(self) -> ServiceConfig:
        if self.submit_options and self.command != "spark-submit":
            raise ValueError("submit_options belong to command: spark-submit")
        return self


class ScoreConfig(Section):
    """The whole configuration of one scoring run."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    source: SourceConfig
    columns: ColumnsConfig = ColumnsConfig()
    scoring: ScoringConfig = ScoringConfig()
    errors: ErrorsConfig = ErrorsConfig()
    output: OutputConfig
    drift: DriftConfig = DriftConfig()
    tracking: TrackingConfig = TrackingConfig()
    spark: SparkConfig = SparkConfig()
    service: ServiceConfig = ServiceConfig()

    @model_validator(mode="after")
    def _check(self) -> ScoreConfig:
        if self.output.columns == "keys" and not self.columns.keys:
            raise ValueError("output.columns: keys needs columns.keys, which is empty")
        is_script = self.model.entry_script is not None
        for key in ("mini_batch_size", "partition_keys", "processes"):
            if getattr(self.scoring, key) and not is_script:
                raise ValueError(f"scoring.{key} belongs to model.entry_script, which is not set; a model has scoring.batch_size")
        if self.scoring.engine == "fast" and (is_script or self.model.env_manager != "local"):
            other = "an entry script, which has a process of its own" if is_script else f"model.env_manager: {self.model.env_manager}"
            raise ValueError(f"scoring.engine: fast is not for {other}; leave it at auto")
        if is_script and self.scoring.batch_size is not None:
            raise ValueError("scoring.batch_size is for a model; what an entry script gets at once is scoring.mini_batch_size")
        for key in self.service.allow:
            self._check_allowed(key)
        if self.source.incremental is not None:
            self._check_incremental(self.source.incremental)
        return self

    def _check_incremental(self, incremental: IncrementalConfig) -> None:
        """Whether a batch is done is asked of the output, so it must be one that remembers all batches."""
        if self.run.on_rerun != "skip":
            raise ValueError(
                f"run.on_rerun: {self.run.on_rerun} is not for source.incremental, which scores nothing twice; leave it at skip"
            )
        if self.output.is_row_file:
            raise ValueError(f"output.format: {self.output.format} holds one batch at most; source.incremental needs delta or parquet")
        if self.scoring.allow_reuse:
            raise ValueError("scoring.allow_reuse is not for source.incremental, which scores nothing twice")
        if self.output.table is not None and incremental.state is None:
            raise ValueError("source.incremental.state is required with output.table: a folder for what is scored already")

    def _check_allowed(self, key: str) -> None:
        section: type[Section] | None = type(self)
        for name in key.split("."):
            if section is not None and name not in keys_of(section):
                raise ValueError(f"service.allow: {key!r} is no key, as run.date, and no section")
            section = section_of(section, name) if section is not None else None
        if key.partition(".")[0] == "service":
            raise ValueError("service.allow: must not name keys of service, which are the operator's")

    def to_dict(self, rows: Any = ...) -> dict[str, Any]:
        """The configuration as plain values, keys as in the YAML file.

        Inline rows are data of any type, which need not have a plain form: where ``rows`` is given, it stands in their place.
        """
        if rows is ...:
            return self.model_dump(mode="json", by_alias=True)
        tree = self.model_dump(mode="json", by_alias=True, exclude={"source": {"rows"}})
        # In the order of the keys in YAML.
        tree["source"] = {key: rows if key == "rows" else tree["source"][key] for key in keys_of(SourceConfig)}
        return tree


def section_of(model: type[Section], key: str) -> type[Section] | None:
    """The section class behind a key of ``model``, or None for an ordinary value."""
    for name, field in model.model_fields.items():
        if (field.alias or name) == key:
            candidates = [field.annotation, *get_args(field.annotation)]
            found = [c for c in candidates if isinstance(c, type) and issubclass(c, Section)]
            return found[0] if found else None
    return None


def keys_of(model: type[Section]) -> list[str]:
    """The keys of a section as they are written in YAML."""
    return [field.alias or name for name, field in model.model_fields.items()]
