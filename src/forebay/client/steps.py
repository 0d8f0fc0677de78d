"""What the pure core asks of a client, and what it is told in return.

A call is a generator: it yields a `Send` or a `Sleep`, is sent the `Reply` or `Failure` (after a `Sleep`: None), and
returns the call's result or raises its error. It does no I/O and reads no clock but the one it was given.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from forebay.client.jobs import JobEvent

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """One HTTP request. `deadline`: the monotonic instant (seconds) at which nobody waits for its answer any more."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    deadline: float
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Open(Send):
    """The same, but an answer of status 200 is left open, to be read in pieces. The one that was open is closed.

    `idle_s`: after so many seconds without a byte the connection counts as broken.
    """

    idle_s: float = math.inf


@dataclass(frozen=True)
class Opened:
    """An answer is open."""


@dataclass(frozen=True)
class Read:
    """The next piece of the open answer, until the deadline of its `Open`: bytes, none at its end."""

    opened: Open


@dataclass(frozen=True)
class Sleep:
    """Nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """A whole answer; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray


@dataclass(frozen=True)
class Failure:
    """No whole answer. `late`: the deadline passed; `final`: it would be the same another time."""

    reason: str
    late: bool = False
    final: bool = False


Steps = Generator[Send | Sleep, Reply | Failure | None, T]
EventSteps = Generator["Open | Read | Sleep | JobEvent", Opened | Reply | bytes | Failure | None, None]
"""A call that tells events as they come: each `JobEvent` that it yields is the caller's."""
