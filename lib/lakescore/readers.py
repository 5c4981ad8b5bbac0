"""A format in, what its reader is told out: strict defaults, and the options that it knows.

Spark ignores an option that it does not know, and reads on as if nobody had given it; here it is an error with the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping

from lakescore.errors import ConfigError, did_you_mean, listing

_STRICT_FILES = {"ignoreCorruptFiles": "false", "ignoreMissingFiles": "false"}
# RFC 4180, by which "a ""b""" is a "b"; a file of another dialect stops the run instead of giving other texts than it holds.
_STRICT_CSV = {
    "header": "true", "mode": "FAILFAST", "enforceSchema": "false", "columnPruning": "false", "escape": '"',
    "unescapedQuoteHandling": "RAISE_ERROR",
}  # fmt: skip
_STRICT: dict[str, dict[str, str]] = {
    "csv": _STRICT_CSV, "json": {"mode": "FAILFAST"}, "avro": {"mode": "FAILFAST"},
    "parquet": {"parquet.page.verify-checksum.enabled": "true"},
}  # fmt: skip
_ENCODINGS = (
    "UTF-8",
    "UTF-16",
    "UTF-16LE",
    "UTF-16BE",
    "UTF-32",
    "US-ASCII",
    "ISO-8859-1",
    "ISO-8859-15",
    "windows-1252",
    "GB18030",
    "Shift_JIS",
)
_MODES = ("FAILFAST", "PERMISSIVE", "DROPMALFORMED")

_FILES = "basePath ignoreCorruptFiles ignoreMissingFiles mergeSchema modifiedAfter modifiedBefore pathGlobFilter recursiveFileLookup"
_TEXT = (
    "charset columnNameOfCorruptRecord compression dateFormat enableDateTimeParsingFallback encoding inferSchema lineSep locale mode "
    "multiLine preferDate prefersDate rescuedDataColumn samplingRatio singleVariantColumn timeFormat timeZone timestampFormat "
    "timestampNTZFormat"
)
_KNOWN = {
    "csv": (
        f"{_FILES} {_TEXT} charToEscapeQuoteEscaping columnPruning comment delimiter emptyValue enforceSchema escape escapeQuotes header "
        "ignoreLeadingWhiteSpace ignoreTrailingWhiteSpace inputBufferSize maxCharsPerColumn maxColumns nanValue negativeInf nullValue "
        "positiveInf quote sep unescapedQuoteHandling"
    ),
    "json": (
        f"{_FILES} {_TEXT} allowBackslashEscapingAnyCharacter allowComments allowNonNumericNumbers allowNumericLeadingZeros "
        "allowSingleQuotes allowUnquotedControlChars allowUnquotedFieldNames dropFieldIfAllNull inferTimestamp maxNestingDepth maxNumLen "
        "maxStringLen prefersDecimal primitivesAsString useUnsafeRow"
    ),
    "parquet": f"{_FILES} datetimeRebaseMode int96RebaseMode",
    "orc": f"{_FILES}",
    "avro": (
        f"{_FILES} avroSchema avroSchemaUrl datetimeRebaseMode enableStableIdentifiersForUnionType ignoreExtension mode "
        "positionalFieldMatching recursiveFieldMaxDepth stableIdentifierPrefixForUnionType"
    ),
    "delta": "",
    # A row for each file, of all folders below; that broken files are skipped is no option.
    "images": "modifiedAfter modifiedBefore pathGlobFilter",
    "text_files": "encoding modifiedAfter modifiedBefore pathGlobFilter",
    "binary": "modifiedAfter modifiedBefore pathGlobFilter",
}


def check_options(format_: str, given: Mapping[str, str]) -> None:
    """Refuse options that the format's reader would not understand; dotted ones are the file system's.

    Raises:
        ConfigError: naming the option, and the nearest one that exists.
    """
    known = _KNOWN[format_].split()
    folded = {name.casefold() for name in known}
    for name, value in given.items():
        if name.casefold() in ("versionasof", "timestampasof"):
            raise ConfigError(f"source.options: {name} is source.{name[:-4].lower()} here, so that the run records it")
        if "." not in name and name.casefold() not in folded:
            hint = did_you_mean(name, known) or f" It has {listing(known, 40)}."
            raise ConfigError(f"source.options: the {format_} reader has no option {name!r}.{hint}")
        if name.casefold() == "encoding" and format_ == "text_files":
            encoding(given)
        if name.casefold() == "mode" and value.upper() not in _MODES:
            raise ConfigError(
                f"source.options: got mode={value!r}; expected one of {listing(_MODES)}.{did_you_mean(value.upper(), _MODES)}"
            )


def encoding(given: Mapping[str, str]) -> str:
    """The encoding of text files, as Python knows it.

    Raises:
        ConfigError: there is none of this name.
    """
    name = option(given, "encoding") or "UTF-8"
    try:
        "".encode(name)  # unlike codecs.lookup, this refuses what is no text encoding, such as hex
    except (LookupError, ValueError):
        raise ConfigError(f"source.options.encoding: there is no encoding {name!r}.{did_you_mean(name, _ENCODINGS)}") from None
    return name


def options(format_: str, given: Mapping[str, str], tabs: bool) -> dict[str, str]:
    """Everything that the reader is told; what is configured wins over what is strict."""
    strict = {**_STRICT.get(format_, {}), **({"sep": "\t"} if tabs else {}), **(_STRICT_FILES if format_ != "delta" else {})}
    overridden = {name.casefold() for name in given}
    if "delimiter" in overridden:
        overridden.add("sep")
    return {**{name: value for name, value in strict.items() if name.casefold() not in overridden}, **given}


def option(given: Mapping[str, str], name: str) -> str | None:
    """An option's value; names are the same in any case."""
    return next((value for key, value in given.items() if key.casefold() == name.casefold()), None)
