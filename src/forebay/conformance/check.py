"""What a check is: pure steps that ask for requests to be sent and judge what came back. Nothing here does I/O.

A check is a generator: it yields a `Sent`, is sent the `Got` that came, and so on. It ends well by returning (text: a
note for the report), or by raising `Violation` or `Skip`. `judge` drives one with any function that answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from forebay.conformance.sources import Source

if TYPE_CHECKING:
    from forebay.conformance.subject import Subject

_SHOWN_CHARACTERS = 300


class Level(StrEnum):
    """How binding the quoted sentence is. OBSERVE: the texts are silent or disagree, so nothing passes or fails."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    OBSERVE = "observe"


class Verdict(StrEnum):
    """How a check ended."""

    PASS = "pass"
    FAIL = "FAIL"
    OBSERVED = "observed"
    SKIPPED = "skipped"
    NOT_ANNOUNCED = "not announced"


class Sent(msgspec.Struct, frozen=True):
    """One request. `path` is below the server's URL; header names go out as written."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunked: bool = False
    """Send the body in chunks, without Content-Length."""
    host: bool = True
    """Send the Host header."""
    delay_s: float = 0.0
    """Wait before sending."""

    def show(self) -> str:
        """A line for the report."""
        headers = "".join(f" [{name}: {value}]" for name, value in self.headers if name.lower() != "content-type")
        return f"{self.method} {self.path}{headers}{' ' + clip(self.body) if self.body else ''}"


class Got(msgspec.Struct, frozen=True):
    """The answer to one request. `failure`: why there is none (then `status` is 0)."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    failure: str = ""
    reused: bool = False
    """It came on the connection of the request before."""
    closed: bool | None = None
    """Whether the server closed the connection after it; None: not looked at."""

    def header(self, name: str) -> str | None:
        """The value of a header, by its name in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def show(self) -> str:
        """A line for the report."""
        if self.failure:
            return f"no answer: {self.failure}"
        return f"{self.status} {clip(self.body)}" if self.body else f"{self.status}, no body"


Steps = Generator[Sent, Got, str | None]


class Violation(Exception):  # noqa: N818 - a finding about the server, not an error of the kit
    """The server did not do what the quoted sentence says. `came` empty: the last answer as a whole."""

    def __init__(self, expected: str, came: str = "") -> None:
        super().__init__(f"expected {expected}, got {came}")
        self.expected = expected
        self.came = came


class Skip(Exception):  # noqa: N818 - not an error
    """The check says nothing about this model or server; the message says why."""


class Check(msgspec.Struct, frozen=True):
    """One check. `extension`: its name in the server's metadata, where the check belongs to one."""

    id: str
    level: Level
    quote: str
    source: Source
    title: str
    run: Callable[[Subject], Steps]
    extension: str | None = None

    @property
    def area(self) -> str:
        """The part of its id before the dot."""
        return self.id.partition(".")[0]


class Result(msgspec.Struct, frozen=True):
    """What one check found. `sent` and `came` tell the last exchange, or the one that was wrong."""

    id: str
    area: str
    level: Level
    extension: str | None
    title: str
    quote: str
    source: Source
    verdict: Verdict
    sent: str = ""
    expected: str = ""
    came: str = ""

    @property
    def grave(self) -> bool:
        """Whether it makes the run fail: a MUST that fails, of the protocol or of an announced extension."""
        return self.verdict is Verdict.FAIL and self.level is Level.MUST


def check(
    id_: str, level: Level, quote: str, source: Source, extension: str | None = None
) -> Callable[[Callable[[Subject], Steps]], Check]:
    """Makes a function a `Check`; the first line of its docstring, without the full stop, is the title."""

    def made(run: Callable[[Subject], Steps]) -> Check:
        title = (run.__doc__ or "").strip().splitlines()[0].rstrip(".")
        return Check(id_, level, " ".join(quote.split()), source, title, run, extension)

    return made


def expect(holds: bool, expected: str, came: Any = None) -> None:
    """Raises `Violation` unless `holds`. `came`: the part of the answer at fault; None: the whole."""
    if not holds:
        raise Violation(expected, "" if came is None else clip(came))


def violated(expected: str, came: Any = None) -> NoReturn:
    """Raises `Violation`."""
    raise Violation(expected, "" if came is None else clip(came))


def clip(value: Any) -> str:
    """Any value as one line of at most 300 characters."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def judge(one: Check, subject: Subject, exchange: Callable[[Sent], Got]) -> Result:
    """Runs one check; `exchange` sends a request and returns what came, and never raises."""

    def result(verdict: Verdict, expected: str = "", came: str = "") -> Result:
        shown = sent.show() if sent is not None else ""
        whole = came or (got.show() if got is not None else "")
        about = (one.id, one.area, one.level, one.extension, one.title, one.quote, one.source)
        return Result(*about, verdict, shown, expected, whole)

    sent: Sent | None = None
    got: Got | None = None
    if one.extension is not None and one.extension not in subject.extensions:
        return result(Verdict.NOT_ANNOUNCED)
    steps = one.run(subject)
    try:
        sent = next(steps)
        while True:
            got = exchange(sent)
            sent = steps.send(got)
    except StopIteration as end:
        note: str | None = end.value
        return result(Verdict.OBSERVED if one.level is Level.OBSERVE else Verdict.PASS, came=note or "")
    except Skip as reason:
        return result(Verdict.SKIPPED, came=str(reason))
    except Violation as found:
        if one.level is Level.OBSERVE:
            return result(Verdict.OBSERVED, found.expected, found.came)
        return result(Verdict.FAIL, found.expected, found.came)
    except Exception as error:
        # An answer so odd that a check stumbles over it is the server's fault; the error is told in full.
        return result(Verdict.FAIL, "an answer that can be read", f"{type(error).__name__}: {error}")
