"""Deliveries to webhooks in this process's memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from forebay.jobs.webhooks import Delivery, Settled


class MemoryWebhooks:
    """What a `WebhookQueue` keeps. `now_ms` is its clock, milliseconds since 1970."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._due: dict[str, tuple[int, int]] = {}
        """When each is due, and how often it failed."""
        self._order: list[tuple[int, str]] = []
        """A heap of instants and ids; those that `_due` does not confirm are passed over."""

    def owe(self, id: str) -> None:
        """A job has finished that has a webhook."""
        self._set(id, 0.0, 0)

    def take(self, most: int, hold_s: float) -> Sequence[Delivery]:
        """Those that are due."""
        now, taken = self._now_ms(), list[Delivery]()
        while len(taken) < most and self._order and self._order[0][0] <= now:
            instant, id = heapq.heappop(self._order)
            due = self._due.get(id)
            if due is not None and due[0] == instant:
                taken.append(Delivery(id, due[1]))
                self._set(id, hold_s, due[1])
        return taken

    def settle(self, settled: Settled) -> None:
        """Note what became of one."""
        due = self._due.pop(settled.id, None)
        if due is not None and settled.again_s is not None:
            self._set(settled.id, settled.again_s, due[1] + settled.counts)

    def _set(self, id: str, after_s: float, tries: int) -> None:
        instant = self._now_ms() + round(after_s * 1000)
        self._due[id] = (instant, tries)
        heapq.heappush(self._order, (instant, id))
