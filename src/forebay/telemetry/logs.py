"""The log on stderr: every field's name, one formatter, and no secrets.

Use it as `log.warning("instance died", extra=fields(model="mlp", pid=71))`. mypy checks the names against the table.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TextIO, TypedDict, Unpack

import msgspec

from forebay.core.settings import LogSettings


class Fields(TypedDict, total=False):
    """Every field that a log line may carry, besides time, level, logger, message and error."""

    model: str  # the model's name
    runtime: str  # the library that runs it
    device: str  # cpu, cuda:0
    instance: int  # which of the model's instances, from 0
    instances: int  # how many of them
    pid: int  # a process
    exit_code: int  # with which it ended; negative: the signal
    attempt: int  # which try this is, from 1
    batching: str  # auto, off
    reason: str  # why something was decided, in words
    code: str  # of an error, as in core/errors.py
    stage: str  # in which a deadline passed
    tenant: str  # the API key's name
    request_id: str  # the caller's id
    job_id: str
    method: str  # HTTP
    path: str  # HTTP, without the query
    status: int  # HTTP
    host: str  # an address bound or called
    port: int
    file: str  # a file read or written
    key: str  # a setting
    rows: int
    batch_rows: int
    queue_rows: int
    in_flight: int  # requests
    size_bytes: int
    queue_ms: float
    compute_ms: float
    duration_ms: float
    retry_after_s: float
    digest: str  # of a model's artefact
    version: str


FIELD_NAMES = tuple(Fields.__annotations__)
_SLOT = "forebay_fields"
_SECRETS = (
    (re.compile(r"fb_[\w-]{20,}"), "fb_***"),
    (re.compile(r"whsec_[\w+/=-]+"), "whsec_***"),
    (re.compile(r"(bearer)\s+[^\s\"',]+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"(?<![\w.-])((?!sha256:)[\w.-]+):[0-9a-fA-F]{64}\b"), r"\1:***"),
    (re.compile(r"(\w+://[^\s/:@\"']*):[^\s/@\"']+@"), r"\1:***@"),
    (re.compile(r"(password=)[^\s&;#'\"]+", re.IGNORECASE), r"\1***"),
)
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_SOCKET_LINES = ('%s - "WebSocket %s"', "connection open", "connection closed", "connection rejected (")
_TOLD_BY_US = ("aiormq", "aio_pika")
"""Loggers of libraries that tell of every attempt to connect."""
_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def fields(**values: Unpack[Fields]) -> dict[str, object]:
    """The `extra=` of a log call. Raises `TypeError` for a name that is not in the table."""
    unknown = values.keys() - set(FIELD_NAMES)
    if unknown:
        raise TypeError(f"unknown log fields {sorted(unknown)}; add them to telemetry.logs.Fields")
    return {_SLOT: values}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What `fields` gave a line."""
    found: dict[str, Any] = getattr(record, _SLOT, {})
    return found


def without_secrets(text: str) -> str:
    """The text with API keys, bearer tokens, key lines and passwords in URLs blotted out."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class News:
    """Tells what is worth a line from what was said before: what goes on is said once, and again when it comes back
    after it was not heard for a while."""

    FORGOTTEN_AFTER_S: Final = 60.0
    MOST: Final = 100

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard_at: dict[str, float] = {}
        """By text; the one that was heard last stands last."""

    def is_new(self, text: str) -> bool:
        """Whether it has not been heard lately. It has been, from now on."""
        now, before = self._clock(), self._heard_at.pop(text, None)
        self._heard_at[text] = now
        if len(self._heard_at) > self.MOST:
            del self._heard_at[next(iter(self._heard_at))]
        return before is None or now - before > self.FORGOTTEN_AFTER_S


class LineFormatter(logging.Formatter):
    """One record as one line: JSON, or text for people (a traceback follows on lines of its own)."""

    def __init__(self, *, as_json: bool, colour: bool = False) -> None:
        super().__init__()
        self._as_json = as_json
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The record without secrets and without line breaks that a caller could have smuggled in."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{record.msg!r} with arguments that do not fit it"
        values = fields_of(record)
        error = self.formatException(record.exc_info) if record.exc_info else None
        moment = datetime.fromtimestamp(record.created, UTC)
        render = self._json if self._as_json else self._text
        return without_secrets(render(moment, record, message, values, error))

    @staticmethod
    def _json(
        moment: datetime, record: logging.LogRecord, message: str, values: dict[str, object], error: str | None
    ) -> str:
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **values,
        }
        if error is not None:
            line["error"] = error
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:  # the name of a file that is no UTF-8
            return json.dumps(line, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()

    def _text(
        self, moment: datetime, record: logging.LogRecord, message: str, values: dict[str, object], error: str | None
    ) -> str:
        level = record.levelname.lower()
        shown = f"{_COLOURS.get(level, '')}{level:<7}\x1b[0m" if self._colour else f"{level:<7}"
        pairs = "".join(f" {name}={_one_line(value)}" for name, value in values.items())
        line = f"{moment.astimezone():%H:%M:%S}.{moment.microsecond // 1000:03d} {shown} {_one_line(message)}{pairs}"
        return line if error is None else f"{line}\n{error}"


def _one_line(value: object) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))


class LogSwitch(logging.Filter):
    """Which levels are written; it hangs on the one handler and may be turned while the server runs.

    The levels are independent of each other, as in Triton's logging extension. Critical records are always written.
    """

    def __init__(self, least: int, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json
        self.verbose_level = int(least <= logging.DEBUG)
        self.shown = {level for level in (logging.INFO, logging.WARNING, logging.ERROR) if level >= least}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        level = record.levelno
        if level < logging.INFO:
            return self.verbose_level > 0
        return level >= logging.CRITICAL or level // 10 * 10 in self.shown

    def turn(self, shown: set[int], verbose_level: int) -> None:
        """Write these of INFO, WARNING and ERROR, and debug records where `verbose_level` is above 0."""
        self.shown, self.verbose_level = shown, verbose_level
        least = logging.DEBUG if verbose_level else min(shown, default=logging.CRITICAL)
        for name in ("forebay", *_UVICORN_LOGGERS):
            logging.getLogger(name).setLevel(least)


def log_switch() -> LogSwitch | None:
    """The switch of this process's log; None where `start_logging` was not called, as in somebody else's process."""
    filters = (item for handler in logging.getLogger().handlers for item in handler.filters)
    return next((item for item in filters if isinstance(item, LogSwitch)), None)


def _without_sockets(record: logging.LogRecord) -> bool:
    """uvicorn and websockets tell of every WebSocket, as an access log would."""
    return not (record.levelno <= logging.INFO and str(record.msg).startswith(_SOCKET_LINES))


def start_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sends all of the process's logs to `stream` (default: stderr) in one form. Call once, at the composition root.

    Ours and uvicorn's are shown from `settings.level`, other libraries' from warning. uvicorn must be started with
    `log_config=None, access_log=False`, or it sets its own up again.
    """
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    as_json = settings.format == "json" or (settings.format == "auto" and not terminal)
    sink = logging.StreamHandler(target)
    sink.setFormatter(LineFormatter(as_json=as_json, colour=terminal and not as_json))
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    sink.addFilter(LogSwitch(level, as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [sink]
    root.setLevel(logging.WARNING)
    logging.getLogger("forebay").setLevel(level)
    for name in _TOLD_BY_US:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in _UVICORN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = True
    connections = logging.getLogger("uvicorn.error")
    connections.filters[:] = [_without_sockets]
    logging.captureWarnings(True)
