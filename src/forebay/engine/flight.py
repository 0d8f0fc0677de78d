"""A batch on its way through an instance, and what is left to do for its requests."""

from __future__ import annotations

from forebay.batching import Batch
from forebay.core.request import Request
from forebay.engine.isolate import Group

HANG_MIN_S = 5.0
"""A run that a caller has given up on is left at least this long before its instance is killed."""
HANG_FACTOR = 10.0
"""... and this many times its predicted time."""


def nobody(request: Request) -> None:
    """The `on_done` of a request that has been answered, or whose caller left."""


class Flight:
    """A batch at an instance. `group` is set where its requests are being searched for a guilty one."""

    __slots__ = ("batch", "began", "deadline", "group", "hung", "overdue")

    def __init__(self, batch: Batch[Request], group: Group[Request] | None) -> None:
        self.batch = batch
        self.group = group
        self.began = batch.sent_at
        """When the instance began with it: when it was sent, or when the one before it was done."""
        self.overdue = False
        """Whether a deadline of its requests has passed."""
        self.hung = False
        self.deadline: float = min([item.deadline for item in batch.items])

    def waiting(self) -> list[Request]:
        """Its requests that are not answered yet."""
        return [item for item in self.batch.items if item.on_done is not nobody]

    def hang_at(self) -> float:
        """When the instance may be killed if a caller has given up on this batch."""
        return self.began + max(HANG_MIN_S, HANG_FACTOR * self.batch.predicted_s)
