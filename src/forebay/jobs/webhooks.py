"""The port of what is to be delivered: which finished jobs still owe a call to their webhook, and when it is due.

A store keeps this with its records: a job that has a webhook is due in the same step in which it becomes terminal, so
that no crash loses a delivery. Errors are as in `JobQueue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Delivery(msgspec.Struct, frozen=True):
    """A call that is due. `tries`: how many have failed so far."""

    id: str
    tries: int = 0


class Settled(msgspec.Struct, frozen=True):
    """What became of one. `again_s`: when it is due again; None: never, it was delivered or is given up. `counts`: it
    was tried and failed."""

    id: str
    again_s: float | None = None
    counts: bool = True


class WebhookQueue(Protocol):
    """Deliveries that are due. Any number of processes may take them."""

    async def due_webhooks(self, most: int, hold_s: float) -> Sequence[Delivery]:
        """Up to `most` that are due, the longest due first. They are due again after `hold_s`, unless settled."""
        ...

    async def settle_webhooks(self, settled: Sequence[Settled]) -> None:
        """Note what became of them. One that is not known any more is passed over."""
        ...
