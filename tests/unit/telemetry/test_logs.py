"""Log lines: their form, their fields, and that no secret is in them."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from forebay.core.settings import LogSettings
from forebay.telemetry.logs import FIELD_NAMES, News, fields, start_logging, without_secrets
from forebay.testing import FakeClock

SECRET = "fb_" + "Zx9-" * 10 + "abc"
NAMES = ("", "forebay", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "py.warnings")


@pytest.fixture(autouse=True)
def _put_logging_back() -> Iterator[None]:
    before = {name: _state(logging.getLogger(name)) for name in NAMES}
    yield
    logging.captureWarnings(False)
    for name, (handlers, level, propagate, disabled) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], int, bool, bool]:
    return list(logger.handlers), logger.level, logger.propagate, logger.disabled


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line() -> None:
    stream = io.StringIO()
    start_logging(LogSettings(), stream)
    logging.getLogger("forebay.engine").warning("instance %s", "died", extra=fields(model="mlp", pid=7, exit_code=-9))
    (line,) = lines(stream)
    time = line.pop("time")
    assert (len(time), time[-1], time[10]) == (24, "Z", "T")
    assert line == {
        "level": "warning",
        "logger": "forebay.engine",
        "message": "instance died",
        "model": "mlp",
        "pid": 7,
        "exit_code": -9,
    }


def test_a_name_that_is_no_utf_8_costs_no_line() -> None:
    stream = io.StringIO()
    start_logging(LogSettings(format="json"), stream)
    logging.getLogger("forebay").warning("holds %s", "a\udcff.onnx", extra=fields(model="m"))
    (line,) = lines(stream)
    assert (line["message"], line["model"]) == ("holds a?.onnx", "m")


def test_json_carries_the_traceback_on_the_same_line() -> None:
    stream = io.StringIO()
    start_logging(LogSettings(format="json"), stream)
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logging.getLogger("forebay").exception("it failed")
    (line,) = lines(stream)
    assert line["error"].endswith("ValueError: broken\nin two")


@pytest.mark.parametrize(
    ("form", "stream", "as_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ],
)
def test_auto_is_text_on_a_terminal_only(form: Any, stream: io.StringIO, as_json: bool) -> None:
    start_logging(LogSettings(format=form), stream)
    logging.getLogger("forebay").info("hello", extra=fields(rows=3))
    written = stream.getvalue()
    assert written.startswith("{") == as_json
    assert ("\x1b[32m" in written) == (stream.isatty() and not as_json)
    if not as_json:
        assert written.endswith(" hello rows=3\n")


def test_text_stays_on_one_line_whatever_callers_send() -> None:
    stream = io.StringIO()
    start_logging(LogSettings(format="text"), stream)
    logging.getLogger("forebay").warning("bad\nname\x1b[2J", extra=fields(path="/a\r\nfake line"))
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert r"bad\nname\x1b[2J path=/a\r\nfake line" in stream.getvalue()


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_is_for_our_loggers(level: Any, shown: int) -> None:
    stream = io.StringIO()
    start_logging(LogSettings(level=level), stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("forebay.api"), name)("ours")
    logging.getLogger("someone.else").info("theirs")
    assert [line["message"] for line in lines(stream)] == ["ours"] * shown


def test_uvicorn_speaks_through_us_and_has_no_access_log() -> None:
    stream, own = io.StringIO(), io.StringIO()
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(own))
    logging.getLogger("uvicorn.error").propagate = False
    start_logging(LogSettings(), stream)
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "127.0.0.1:1", "/v1/ws")
    logging.getLogger("uvicorn.error").info("connection open")
    logging.getLogger("uvicorn.error").info("connection rejected (%d %s)", 404, "Not Found")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.access").error("GET /")
    assert [(line["logger"], line["message"]) for line in lines(stream)] == [("uvicorn.error", "started")]
    assert own.getvalue() == ""


def test_warnings_are_logged() -> None:
    stream = io.StringIO()
    start_logging(LogSettings(), stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    assert lines(stream)[0]["logger"] == "py.warnings"
    assert "UserWarning: old" in lines(stream)[0]["message"]


def test_starting_twice_writes_once() -> None:
    stream = io.StringIO()
    start_logging(LogSettings(), io.StringIO())
    start_logging(LogSettings(), stream)
    logging.getLogger("forebay").info("once")
    assert len(lines(stream)) == 1


def test_a_field_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(TypeError, match=r"unknown log fields \['modle'\]"):
        fields(modle="mlp")  # type: ignore[call-arg]


def test_field_names_do_not_clash_with_the_lines_own() -> None:
    assert not {"time", "level", "logger", "message", "error"} & set(FIELD_NAMES)


def test_arguments_that_do_not_fit_do_not_lose_the_line() -> None:
    stream = io.StringIO()
    start_logging(LogSettings(), stream)
    logging.getLogger("forebay").info("%d rows", "many")
    assert lines(stream)[0]["message"] == "'%d rows' with arguments that do not fit it"


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_planted_key_never_reaches_the_log(form: Any) -> None:
    stream = io.StringIO()
    start_logging(LogSettings(format=form, level="debug"), stream)
    log = logging.getLogger("forebay.api")
    headers = [(b"authorization", f"Bearer {SECRET}".encode()), (b"host", b"x")]
    log.info("headers %s", headers)
    log.info("config %s", {"api_keys": f"alice:{'ab' * 32}"})
    log.info("key line alice:%s", "ab" * 32)
    log.info("other token: bearer not-ours-but-a-token")
    log.info("in a field", extra=fields(reason=f"sent {SECRET}", path=f"/x?key={SECRET}"))
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("failed with %s", SECRET)
    logging.getLogger("uvicorn.error").warning("Authorization: Bearer %s", SECRET)
    written = stream.getvalue()
    assert written.count("***") >= 9
    for part in (SECRET, SECRET[3:20], "ab" * 32, "not-ours"):
        assert part not in written
    assert len(written.splitlines()) >= 7
    if form == "json":
        assert len(lines(stream)) == 7


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://me:pw@host:1/0: refused", "redis://me:***@host:1/0: refused"),
        ('"store":"redis+sentinel://:pw@a,b/m"', '"store":"redis+sentinel://:***@a,b/m"'),
        ("unix:///s.sock?db=1&password=pw&x=1", "unix:///s.sock?db=1&password=***&x=1"),
    ],
)
def test_passwords_in_urls_are_blotted_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_what_is_no_secret_stays() -> None:
    text = "model sha256:" + "c" * 64 + " digest " + "d" * 64 + " fb_short"
    text += ' at ["http://host:80","me@there"] redis://user@host:1/a@b'
    assert without_secrets(text) == text


def test_what_goes_on_is_news_once_and_again_after_it_was_over() -> None:
    clock = FakeClock()
    news = News(clock)
    assert [news.is_new(text) for text in ("away", "refuses", "away", "refuses")] == [True, True, False, False]
    for _ in range(5):
        clock.advance(News.FORGOTTEN_AFTER_S - 1)
        assert not news.is_new("away")
    clock.advance(News.FORGOTTEN_AFTER_S + 1)
    assert news.is_new("away")


def test_of_news_only_so_many_are_kept() -> None:
    news = News(FakeClock())
    assert all(news.is_new(str(number)) for number in range(3 * News.MOST))
    assert len(news._heard_at) == News.MOST
    assert news.is_new("0")
