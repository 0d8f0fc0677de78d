"""One setting: what its key accepts, and how a raw value of any source becomes a checked one."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import msgspec
from msgspec import inspect, structs

from forebay.core.errors import SetupError
from forebay.core.settings import CacheSettings, JobSettings, LogSettings, ModelSettings, ServerSettings, Settings
from forebay.core.store_url import FORMS, is_store_url, masked_url

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_UNITS = MappingProxyType(
    {"": 1, "b": 1}
    | {unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb"), 1)}
    | {unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), 1)}
)
_NONE_WORDS = frozenset({"none", "null"})
_LONGEST_SHOWN = 80
_LONGEST_PATH = 1000


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the tree: its name, type, default, meaning, and in words what it accepts."""

    name: str
    type: Any
    default: object
    meaning: str
    accepted: str
    choices: tuple[str, ...] = ()
    optional: bool = False
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A checked value and where it came from, such as `forebay.toml:server.port` or `FOREBAY_SERVER__PORT`."""

    value: Any
    source: str


def keys_of(tree: type[msgspec.Struct]) -> Mapping[str, Key]:
    """The keys of one branch of the tree, sub-trees left out."""
    known = {field.name: field for field in structs.fields(tree)}
    shapes = {field.name: field.type for field in _struct_type(tree).fields}
    return MappingProxyType(
        {
            name: _key(name, known[name].type, shape, known[name].default)
            for name, shape in shapes.items()
            if isinstance(shape, inspect.Metadata)
        }
    )


def _struct_type(tree: type[msgspec.Struct]) -> inspect.StructType:
    shape = inspect.type_info(tree)
    assert isinstance(shape, inspect.StructType)
    return shape


def _key(name: str, annotated: Any, shape: inspect.Metadata, default: object) -> Key:
    inner, optional, word = shape.type, False, ""
    if isinstance(inner, inspect.UnionType):
        parts = [part for part in inner.types if not isinstance(part, inspect.NoneType)]
        optional = len(parts) < len(inner.types)
        inner = parts[0]
        for other in parts[1:]:  # a number, or a word in its place
            assert isinstance(other, inspect.LiteralType)
            word = f", or {other.values[0]}"
    # The annotation keeps the order in which the choices were written; `inspect` sorts them.
    choices = get_args(get_args(annotated)[0]) if isinstance(inner, inspect.LiteralType) else ()
    accepted = _accepted(name, inner, choices) + word + (", or none" if optional else "")
    meaning = (shape.extra_json_schema or {})["description"]
    return Key(name, annotated, default, meaning, accepted, choices, optional, isinstance(inner, inspect.VarTupleType))


def _accepted(name: str, shape: inspect.Type, choices: tuple[str, ...]) -> str:
    match shape:
        case inspect.LiteralType():
            return "one of " + ", ".join(choices)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=least) if name.endswith("_bytes") and least:
            return f"a size, {least} or more"
        case inspect.IntType() if name.endswith("_bytes"):
            return "a size, such as 1048576 or 1MiB"
        case inspect.IntType(ge=least, le=most):
            return f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
        case inspect.FloatType(gt=above, le=1):
            return "a number from 0 to 1" if above is None else "a number above 0, at most 1"
        case inspect.FloatType(gt=above):
            noun = "a number"
            if name.endswith("_ms"):
                noun = "milliseconds"
            elif name.endswith("_s") and not name.endswith("_per_s"):
                noun = "seconds"
            limit = "" if shape.le is None else f"{shape.le:.0f}"
            if above is None:
                return f"{noun} from {shape.ge} to {limit}" if limit else f"{noun}, 0 or more"
            return f"{noun} above 0" + (f", at most {limit}" if limit else "")
        case inspect.VarTupleType():
            return "a list of names" + (", such as cpu or cuda:0,cuda:1" if name == "devices" else "")
        case inspect.CustomType():
            return "a path"
        case inspect.StrType() if name in ("store", "broker"):
            return "a URL"
        case inspect.StrType() if name == "request_log_redact":
            return "a function, such as redact.py:redact"
        case _:
            return "text"


SERVER_KEYS = keys_of(ServerSettings)
LOG_KEYS = keys_of(LogSettings)
JOB_KEYS = keys_of(JobSettings)
CACHE_KEYS = keys_of(CacheSettings)
MODEL_KEYS = keys_of(ModelSettings)
ROOT_KEYS = keys_of(Settings)
TREES: Mapping[str, type[msgspec.Struct]] = MappingProxyType(
    {"server": ServerSettings, "log": LogSettings, "jobs": JobSettings, "cache": CacheSettings}
)
"""The branches of the tree that are sections of a settings file, by name."""
SECTIONS: Mapping[str, Mapping[str, Key]] = MappingProxyType(
    {"server": SERVER_KEYS, "log": LOG_KEYS, "jobs": JOB_KEYS, "cache": CACHE_KEYS}
)


def read_value(key: Key, raw: object, *, source: str, text: bool, folder: Path | None = None) -> Setting:
    """Checks a raw value. Raises `SetupError` that names source, key, value and what is accepted.

    text: the value was written outside a typed format (environment, flag), so `"8"` may stand for 8.
    folder: relative paths are taken from it (the folder of a settings file); None leaves them as they are.
    """
    value = _prepared(key, raw)
    if isinstance(value, str | Path) and "\0" in str(value):
        raise _bad_value(key, raw, source)
    try:
        value = msgspec.convert(value, key.type, strict=not text, dec_hook=_as_path)
    except (msgspec.ValidationError, ValueError, TypeError):
        raise _bad_value(key, raw, source) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad_value(key, raw, source)
    if key.name == "store" and value is not None and not is_store_url(value):
        raise SetupError(f"{source}: store cannot be {masked_url(value)!r}; accepted: {FORMS}")
    if key.name == "broker" and value is not None and "://" not in value:
        raise SetupError(
            f"{source}: broker cannot be {masked_url(value)!r}; accepted: amqp://HOST:PORT/VHOST "
            "(a RabbitMQ), sqs://REGION/PREFIX (an SQS), kafka://HOST:PORT/PREFIX (a Kafka), the URL of the store, "
            "or none"
        )
    if key.name == "request_log_redact" and value is not None:
        value = _function(key, value, source, folder)
    if isinstance(value, Path):
        try:
            value = value.expanduser()
        except RuntimeError as error:  # ~NAME of nobody
            raise SetupError(f"{source}: {key.name} cannot be {shown(raw)}: {error}") from None
        value = folder / value if folder is not None else value
    return Setting(value, source)


def _function(key: Key, value: str, source: str, folder: Path | None) -> str:
    """A function as FILE.py:NAME or MODULE:NAME; a relative file is taken from the folder."""
    where, colon, name = value.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise _bad_value(key, value, source)
    if not where.endswith(".py"):
        return value
    file = Path(where).expanduser()
    return f"{folder / file if folder is not None else file}:{name}"


def _prepared(key: Key, raw: object) -> object:
    """The spellings that every source shares: none for nothing, sizes with a unit, a list by commas."""
    if not isinstance(raw, str):
        return raw
    word = raw.strip()
    if key.optional and word.lower() in _NONE_WORDS:
        return None
    if key.name.endswith("_bytes"):
        size = size_in_bytes(word)
        return word if size is None else size
    return tuple(part.strip() for part in word.split(",")) if key.listed else word


def size_in_bytes(word: str) -> int | None:
    """`1048576`, `256MiB`, `1.5 GB` in bytes; None where it is no size or not a whole number of bytes."""
    match = _SIZE.fullmatch(word)
    if match is None or match[2].lower() not in _UNITS:
        return None
    size = Decimal(match[1]) * _UNITS[match[2].lower()]
    return int(size) if size == int(size) else None


def _as_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str | Path) and str(value):
        return Path(value)
    raise TypeError(f"not a path: {value!r}")


def _bad_value(key: Key, raw: object, source: str) -> SetupError:
    hint = did_you_mean(raw, key.choices) if key.choices and isinstance(raw, str) else ""
    return SetupError(f"{source}: {key.name} cannot be {shown(raw)}; accepted: {key.accepted}{hint}")


def unknown_key(name: str, known: Iterable[str], *, source: str, kind: str = "key") -> SetupError:
    """The error for a key that is not in the tree, with the nearest one that is, or else all of them."""
    names = sorted(known)
    hint = did_you_mean(name, names) or f"; known: {', '.join(names)}"
    return SetupError(f"{source}: unknown {kind} {name!r}{hint}")


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean 'port'?`, or nothing where no known name is near."""
    folded = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=cutoff)
    return f"; did you mean {folded[nearest[0]]!r}?" if nearest else ""


def shown_path(path: Path) -> str:
    """A path as an error may show it: all of it, unless somebody gave a secret for a path."""
    return shown(str(path), _LONGEST_PATH)


def shown(raw: object, longest: int = _LONGEST_SHOWN) -> str:
    """A value as an error may show it: on one line, `longest` characters, and nothing that looks like a secret."""
    try:
        text = repr(raw)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of too many digits"
    if re.search(r"fb_[\w-]{20}|[0-9a-f]{64}", text):
        return "(a value that looks like a key; not shown)"
    return text if len(text) <= longest else text[:longest] + "..."
