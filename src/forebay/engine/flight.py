"""A batch on its way through an instance, and what is left to do for its requests."""

from __future__ import annotations

from forebay.batching import Batch
from forebay.core.request import Request
from forebay.engine.isolate import Group

HANG_MIN_S = 5.0
"""A run whose every caller has gone is left at least this long before its instance is killed."""
HANG_FACTOR = 10.0
"""... and this many times its predicted time."""


def nobody(request: Request) -> None:
    """The `on_done` of a request that has been answered, or whose caller left."""


class Flight:
    """A batch at an instance. `group` is set where its requests are being searched for a guilty one."""

    __slots__ = ("batch", "deadline", "group", "hung")

    def __init__(self, batch: Batch[Request], group: Group[Request] | None) -> None:
        self.batch = batch
        self.group = group
        self.hung = False
        self.deadline = min([item.deadline for item in batch.items])

    def waiting(self) -> list[Request]:
        """Its requests that are not answered yet."""
        return [item for item in self.batch.items if item.on_done is not nobody]

    def hang_at(self) -> float:
        """When the instance may be killed if nobody waits for this batch any more."""
        return self.batch.sent_at + max(HANG_MIN_S, HANG_FACTOR * self.batch.predicted_s)
