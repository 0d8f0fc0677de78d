"""What the pure core asks of a client, and what it is told in return.

A call is a generator: it yields a `Send` or a `Sleep`, is sent the `Reply` or `Failure` (after a `Sleep`: None), and
returns the call's result or raises its error. It does no I/O and reads no clock but the one it was given.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """One HTTP request. `deadline`: the monotonic instant (seconds) at which nobody waits for its answer any more."""

    method: Literal["GET", "POST"]
    path: str
    deadline: float
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


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
