"""Triton's logging and trace settings: what is read and changed, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import msgspec
import pytest

from forebay.api.server_settings import LogSettingsDocument, TraceSettings, log_settings, turn_log, turn_trace
from forebay.core.errors import RequestError
from forebay.core.settings import LogSettings
from forebay.telemetry.logs import LogSwitch, log_switch, start_logging

_TOUCHED = ("", "forebay", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "py.warnings")


@pytest.fixture
def written() -> Iterator[StringIO]:
    """The log of this process as `serve` starts it, put back afterwards."""
    loggers = [logging.getLogger(name) for name in _TOUCHED]
    before = [(item, item.level, list(item.handlers), item.propagate, item.disabled) for item in loggers]
    stream = StringIO()
    start_logging(LogSettings(level="info", format="json"), stream)
    yield stream
    logging.captureWarnings(False)
    for item, level, handlers, propagate, disabled in before:
        item.setLevel(level)
        item.handlers[:], item.propagate, item.disabled = handlers, propagate, disabled


def levels_written(stream: StringIO) -> list[str]:
    """Which of the four levels reach the log."""
    stream.seek(0)
    stream.truncate()
    log = logging.getLogger("forebay.api")
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(log, name)("a line")
    return [name for name in ("debug", "info", "warning", "error", "critical") if f'"{name}"' in stream.getvalue()]


def turned(**wanted: Any) -> dict[str, Any]:
    found = turn_log(log_switch(), wanted)
    return {name: getattr(found, name) for name in wanted}


def test_what_is_logged_at_the_start(written: StringIO) -> None:
    found = log_settings(log_switch())
    assert (found.log_info, found.log_warning, found.log_error, found.log_verbose_level) == (True, True, True, 0)
    assert (found.log_file, found.log_format) == ("", "ISO8601")
    assert levels_written(written) == ["info", "warning", "error", "critical"]


def test_each_level_is_turned_by_itself(written: StringIO) -> None:
    assert turned(log_verbose_level=2) == {"log_verbose_level": 2}
    assert levels_written(written) == ["debug", "info", "warning", "error", "critical"]
    turned(log_info=False)
    assert levels_written(written) == ["debug", "warning", "error", "critical"]
    turned(log_verbose_level=0, log_error=False)
    assert levels_written(written) == ["warning", "critical"]
    turned(log_warning=False)
    assert levels_written(written) == ["critical"]
    turned(log_info=True)
    assert levels_written(written) == ["info", "critical"]


def test_the_names_of_tritons_document_are_taken_too(written: StringIO) -> None:
    turn_log(log_switch(), {"log_warnings": False, "log_errors": False})
    assert levels_written(written) == ["info", "critical"]


def test_other_libraries_are_not_let_in_by_a_turned_switch(written: StringIO) -> None:
    turned(log_verbose_level=1)
    logging.getLogger("somebody.else").info("chatter")
    assert "chatter" not in written.getvalue()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_switch_begins_where_the_setting_says(level: str) -> None:
    switch = LogSwitch(logging.getLevelNamesMapping()[level.upper()], as_json=False)
    found = log_settings(switch)
    assert found.log_verbose_level == int(level == "debug")
    assert found.log_info == (level in ("debug", "info"))
    assert found.log_warning == (level != "error")
    assert found.log_error
    assert found.log_format == "default"


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        ([], "invalid_request", "must be an object, got a list"),
        ({"log_info": 1}, "invalid_request", "log_info must be true or false, got 1"),
        ({"log_warnings": "no"}, "invalid_request", "log_warnings must be true or false"),
        ({"log_verbose_level": -1}, "invalid_request", "from 0 to 4294967295, got -1"),
        ({"log_verbose_level": 1 << 32}, "invalid_request", "from 0 to 4294967295"),
        ({"log_verbose_level": True}, "invalid_request", "log_verbose_level"),
        ({"log_format": "json"}, "invalid_request", '"default" or "ISO8601"'),
        ({"log_format": []}, "invalid_request", '"default" or "ISO8601"'),
        ({"log_format": "default"}, "unsupported", "--log-format"),
        ({"log_file": 3}, "invalid_request", "log_file must be a string"),
        ({"log_file": "/tmp/x"}, "unsupported", "standard error"),
        ({"log_colour": True}, "invalid_request", "no log setting 'log_colour'; there are log_file"),
    ],
)
def test_a_wrong_wish_is_refused_and_changes_nothing(written: StringIO, wanted: Any, code: str, words: str) -> None:
    before = log_settings(log_switch())
    if isinstance(wanted, dict):
        wanted = {"log_info": False, **wanted}
    with pytest.raises(RequestError) as caught:
        turn_log(log_switch(), wanted)
    assert caught.value.code == code
    assert words in caught.value.message
    assert log_settings(log_switch()) == before


def test_what_is_so_already_may_be_wished(written: StringIO) -> None:
    turn_log(log_switch(), {"log_file": "", "log_format": "ISO8601"})
    turn_log(log_switch(), {})
    before = log_settings(log_switch())
    assert turn_log(log_switch(), dict.fromkeys(LogSettingsDocument.__struct_fields__)) == before


def test_the_log_of_another_program_is_left_alone() -> None:
    with pytest.raises(RequestError, match="belongs to the program") as caught:
        log_settings(None)
    assert caught.value.code == "unsupported"
    with pytest.raises(RequestError, match="belongs to the program"):
        turn_log(None, {})


@pytest.mark.parametrize("wanted", [{}, {"trace_level": ["OFF"]}, {"trace_level": None}, {"trace_rate": None}])
def test_traces_may_be_off(wanted: dict[str, Any]) -> None:
    assert turn_trace(wanted) == TraceSettings()


def test_what_is_told_of_traces_may_be_sent_back() -> None:
    told = msgspec.json.decode(msgspec.json.encode(TraceSettings()))
    assert turn_trace(told) == TraceSettings()


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"trace_level": ["TIMESTAMPS"]}, "unsupported"),
        ({"trace_level": ["OFF", "TENSORS"]}, "unsupported"),
        ({"trace_rate": "10"}, "unsupported"),
        ({"trace_file": "x", "trace_level": ["OFF"]}, "unsupported"),
        ({"trace_rate": 10}, "invalid_request"),
        ({"trace_level": [1]}, "invalid_request"),
        ({"trace": "x"}, "invalid_request"),
        ("OFF", "invalid_request"),
    ],
)
def test_other_traces_are_refused(wanted: Any, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        turn_trace(wanted)
    assert caught.value.code == code
