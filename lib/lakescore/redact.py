"""Text in, the same text without secrets out: for errors, logs, run records and dry runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"

# The words that make a configuration key, an option or a query parameter a secret.
_SECRET_WORDS = (
    r"pass(?:word|wd|phrase)|(?<![a-z])(?:pass|sas)(?![a-z])|secret|token|api[-_.]?key|access[-_.]?key|account[-_.]?key|private[-_.]?key"
    r"|credential|signature|passcode|(?<![a-z])(?:pwd|auth)(?![a-z])|(?:client|encryption)[-_.]?key|encryption[-_.]key[-_.]list"
)
_SECRET_KEY = re.compile(rf"(?:{_SECRET_WORDS})", re.IGNORECASE)
# Keys that hold one of the words above and are no secret.
_PUBLIC_KEY = re.compile(
    r"tokeniz|token_(?:count|ids?|type)|(?<![a-z])(?:n|num|max|min|eos|bos|pad|unk|sep|cls|mask)_tokens?|signature_name", re.IGNORECASE
)
# A password may hold an unescaped slash; what follows the colon is then no port.
_USERINFO = re.compile(
    r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<user>[^/\s@?#]+(?:@[^/\s@?#]*)*|[^/\s@?#:\[]+:(?!/|\d{1,5}(?:[/?#\s]|$))[^\s@'\"]*)@"
)
# Azure's URIs have the container before the @.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")
_AUTHORIZATION = re.compile(
    r"(?P<name>\bauthorization['\"]?\s*[=:]\s*['\"]?(?:[A-Za-z]+\s+)?|\bbearer\s+(?=[^\s'\"]*\d)"
    r"|\bbasic\s+(?=(?-i:[A-Za-z0-9+/]*[A-Z][A-Za-z0-9+/]*[0-9=])))[^\s,;'\"]{8,}"
    r"|(?P<option>--?(?:password|passwd|pwd|token|secret|(?:[a-z]{1,20}-){0,4}(?:password|token|secret|(?:api|access|account|private)-?key))\s+)"
    r"[^\s,;'\"]+",
    re.IGNORECASE,
)
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*")
# What shows by its own form that it opens something: a signed JSON web token, a webhook's address.
_BY_THEMSELVES = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+|(?<=hooks\.slack\.com/services/)[\w/-]+")
_QUERY = re.compile(rf"(?P<name>[?&;](?:[\w.-]*(?:{_SECRET_WORDS})[\w.-]*|sig|X-Amz-Security-Token))=[^&\s'\"]+", re.IGNORECASE)
# The lookahead keeps the time linear in a long run of letters.
_NAME = (
    r"(?P<name>(?<![\w.-])(?=[\w.-]*(?:pass(?:word|wd|phrase|code)|(?<![A-Za-z])pwd(?![A-Za-z])|secret|token"
    r"|(?:api|access|account|private|client|encryption)[-_.]?key))[\w.-]+)"
)
# A value in quotes ends with them, or with the text where it was cut.
_IN_QUOTES = r"\\?(?P<quote>['\"]).*?(?:\\?(?P=quote)|$)"
# The words are those of this package's own errors about a key.
_ASSIGNMENT = re.compile(
    rf"{_NAME}(?P<sign>\s*[=:]\s*)(?!\s)(?!(?:got|must|expected|unknown|is)\s)(?:{_IN_QUOTES}|[^\s,;}}&'\"]+)",
    re.IGNORECASE | re.DOTALL,
)
# As JSON and Python print a mapping; in `column 'token': 3 nulls` the name is only a name.
_ITEM = re.compile(rf"{_NAME}(?P<sign>\\?['\"]\s*[=:]\s*)(?:{_IN_QUOTES}|[^\s,;}}\]'\"]+(?=\s*[,}}\]]))", re.IGNORECASE | re.DOTALL)


# The one process-wide state of its kind: what is secret by where it comes from. Any thread and module may be about to show it.
_hidden: set[str] = set()
# What is shorter stands in too many words.
_LEAST_CHARACTERS = 6


def hide(secret: str) -> None:
    """Have ``redact`` replace a text wherever it stands, as it is and as URIs write it."""
    if len(secret.strip()) >= _LEAST_CHARACTERS:
        _hidden.update((secret, quote(secret), quote(secret, safe="")))


def hide_parts(text: str) -> None:
    """Have the passwords and tokens in URIs hidden where they stand without the rest of it, as libraries quote them in errors."""
    for found in _USERINFO.finditer(text):
        hide(found["user"].partition(":")[2])
    for found in _QUERY.finditer(text):
        hide(found[0].partition("=")[2])


def is_secret_key(key: str) -> bool:
    """Whether a value stored under this key must not be shown."""
    return bool(_SECRET_KEY.search(key)) and not _PUBLIC_KEY.search(key)


def redact(text: str) -> str:
    """Replace credentials in URIs, query strings and ``secret=value`` pairs, and what ``hide`` was told, by ``***``."""
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _USERINFO.sub(_hidden_user, text)
    text = _QUERY.sub(rf"\g<name>={HIDDEN}", text)
    text = _AUTHORIZATION.sub(lambda found: f"{found['name'] or found['option']}{HIDDEN}", text)
    text = _BY_THEMSELVES.sub(HIDDEN, text)
    return _ASSIGNMENT.sub(_hidden_value, _ITEM.sub(_hidden_value, text))


def _hidden_user(found: re.Match[str]) -> str:
    is_container = found["scheme"].lower() in _CONTAINER_SCHEMES and ":" not in found["user"]
    return found[0] if is_container else f"{found['scheme']}://{HIDDEN}@"


def _hidden_value(found: re.Match[str]) -> str:
    return f"{found['name']}{found['sign']}{HIDDEN}" if is_secret_key(found["name"]) else found[0]


def _is_of_option(before: Any, item: Any) -> bool:
    """Whether a list's item is the value of a secret option: ``[--api-key, VALUE]``."""
    return isinstance(before, str) and bool(_OPTION.fullmatch(before)) and is_secret_key(before) and not str(item).startswith("--")


def redact_tree(value: Any, key: str = "") -> Any:
    """A copy of nested mappings and sequences in which every secret is ``***``."""
    if isinstance(value, Mapping):
        # All that stands below a secret's key is secret.
        below = key if key and is_secret_key(key) else ""
        return {name: redact_tree(item, below or str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [
            HIDDEN if _is_of_option(before, item) else redact_tree(item, key) for before, item in zip(("", *value), value, strict=False)
        ]
    if value is not None and not isinstance(value, bool) and key and is_secret_key(key):
        return HIDDEN
    return redact(value) if isinstance(value, str) else value
