"""The `Broker` port: what Forebay asks of anything that carries jobs to workers.

Every broker delivers at least once, may deliver twice, and may lose what it holds. That is allowed for: the job's
record decides (`forebay.jobs`), so nothing here promises more than that a confirmed message is offered to somebody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

PRIORITY_LEVELS = 3
"""Queues a model: 0 high, 1 normal, 2 low."""


class Message(msgspec.Struct, frozen=True):
    """A job on its way. `payload` is opaque here; `queue` is the model's name; `level` its priority, 0 to 2."""

    id: str
    queue: str
    payload: bytes
    level: int = 1


class Delivery(msgspec.Struct, frozen=True, eq=False):
    """A message that this process may work on for now. `receipt` belongs to the broker that gave it."""

    message: Message
    receipt: Any


class Depth(msgspec.Struct, frozen=True):
    """What a queue holds: `waiting` messages that nobody has, `waiting_bytes` of payload (-1: not told), and `leased`
    ones that somebody has and has not acked (-1: not told)."""

    waiting: int
    waiting_bytes: int = -1
    leased: int = -1


Confirmed = bool | None
"""Whether the broker has a message for sure. None: it has not, and never takes one that large."""


class Capabilities(msgspec.Struct, frozen=True):
    """What a kind of broker can do; the same for all of its objects.

    holds: how long a delivery is one's own. `item`: until `lease_s` has passed, each message by itself. `connection`:
    until the connection ends. `offset`: until the queue's part is given to another consumer; acks move one position
    forward, so a message is done with only when all before it are.
    extends: whether `extend` prolongs it (where it does not, nothing needs to).
    orders: whether messages of one queue and level are delivered in the order in which they were published.
    counts: what `depth` counts. `packs`: messages that were published together may count as one, but some are not none.
    """

    holds: Literal["item", "connection", "offset"]
    extends: bool
    orders: bool
    counts: Literal["messages", "packs"] = "messages"


class Broker(Protocol):
    """A connection to a broker. All calls are made on one event loop. Whatever goes wrong with the broker itself is
    raised as `DependencyError` (broker_unavailable); every call is bounded in time."""

    capabilities: Capabilities

    async def publish(self, messages: Sequence[Message]) -> Sequence[Confirmed]:
        """Hand over messages; for each, whether the broker confirmed it. What was not confirmed may be there all the
        same. Of none at all it tells, by raising and without asking anybody, that the broker is known to be away."""
        ...

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        """Up to `most` messages, the higher levels first, waiting up to `wait_s` for the first. Canceling it loses
        nothing. A queue that the broker refuses is said and holds up no other: raises only where all are refused."""
        ...

    async def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """They are still being worked on: `lease_s` from now."""
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are done with and need not be kept. One that is no longer one's own is passed over."""
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give them back, for anybody to take at once."""
        ...

    async def depth(self, queue: str) -> Depth:
        """What a queue holds, all levels together."""
        ...

    async def close(self) -> None:
        """End the connection. What is leased and not acked goes to others, at the latest when its lease ends."""
        ...


@runtime_checkable
class Burying(Protocol):
    """What a broker has, too, that can keep dead letters."""

    async def bury(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Keep messages that are no jobs where an operator looks for them; for each, whether that was confirmed. Raises
        as the calls of `Broker`."""
        ...
