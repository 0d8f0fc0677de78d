"""A batch on its way through an instance, and what is left to do for its requests."""

from __future__ import annotations

import math

from forebay.batching import Batch
from forebay.core.request import Outputs, Request
from forebay.engine.isolate import Group

HANG_MIN_S = 5.0
"""A run that a caller (not a job) has given up on is left at least this long before its instance is killed."""
HANG_FACTOR = 10.0
"""... and this many times its predicted time."""


def nobody(request: Request) -> None:
    """The `on_done` of a request that has been answered, or whose caller left."""


def begin(items: list[Request], now: float) -> None:
    """A batch of jobs leaves: from now on their timeouts count."""
    for item in items:
        background = item.background
        if background is not None:
            background.began = background.began or now
            item.deadline = background.began + background.timeout_s


class Streamed:
    """What has become of the rows of a batch while it runs."""

    __slots__ = ("ends", "owners", "settled")

    def __init__(self, items: list[Request]) -> None:
        self.owners = [(item, row) for item in items for row in range(item.rows)]
        """Of each row of the batch: the request, and the row in it."""
        self.ends: dict[int, Outputs] = {}
        """Rows that have ended, of requests that wait for more rows."""
        self.settled: set[int] = set()
        """Rows that have ended, or that the instance knows to be canceled."""


class Flight:
    """A batch at an instance. `group` is set where its requests are being searched for a guilty one."""

    __slots__ = ("batch", "began", "deadline", "group", "hung", "overdue", "streamed")

    def __init__(self, batch: Batch[Request], group: Group[Request] | None) -> None:
        self.batch = batch
        self.group = group
        self.began = batch.sent_at
        """When the instance began with it: when it was sent, when the one before it was done, or its last sign of life.
        """
        self.overdue = False
        """Whether a deadline of its requests has passed."""
        self.hung = False
        self.streamed: Streamed | None = None
        self.deadline: float = min([item.deadline for item in batch.items])

    def waiting(self) -> list[Request]:
        """Its requests that are not answered yet."""
        return [item for item in self.batch.items if item.on_done is not nobody]

    def unbegin(self) -> None:
        """It came to nothing: jobs that are to run again have all of their time again."""
        if self.batch.background:
            for item in self.waiting():
                item.deadline = math.inf
                if item.background is not None:
                    item.background.began = 0.0

    def hang_at(self) -> float:
        """When the instance may be killed if a caller has given up on this batch.

        For a request, its patience is no measure of the model: the instance is left to end. The timeout of a job is
        what its run may take, and so ends the run; of a streaming model only where it does not heed being dismissed.
        """
        if self.batch.background and self.streamed is None:
            return self.began
        return self.began + max(HANG_MIN_S, HANG_FACTOR * self.batch.predicted_s)
