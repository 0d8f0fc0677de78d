"""`MemoryDirectory`: what workers serve, where they are in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from forebay.core.clock import Clock
from forebay.jobs.directory import SILENT_AFTER_S, Announced, Known, ServedModel, identity_of
from forebay.jobs.wakening import Wakening


class MemoryDirectory:
    """A `Directory`. `clock`: monotonic seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._workers: dict[str, dict[str, Announced]] = {}
        self._ends: dict[str, float] = {}
        self._last: dict[str, Announced] = {}
        self._order = 0
        self._listeners: list[Wakening] = []

    async def announce(self, worker: str, models: Sequence[ServedModel], gone: Sequence[str] = ()) -> None:
        """Tell all that a worker serves."""
        self._give_up()
        before = self._workers.get(worker, {})
        by_name: dict[str, tuple[ServedModel, ...]] = {}
        for model in models:
            by_name[model.name] = (*by_name.get(model.name, ()), model)
        mine: dict[str, Announced] = {}
        for name, versions in by_name.items():
            order = self._order + 1
            if name in before and identity_of(before[name].versions) == identity_of(versions):
                order = before[name].order
            self._order = max(self._order, order)
            mine[name] = Announced(order, versions)
            self._last[name] = mine[name]
        self._workers[worker] = mine
        self._ends[worker] = self._clock() + SILENT_AFTER_S
        for name in gone:
            if not any(name in served for served in self._workers.values()):
                self._last.pop(name, None)
        self._tell()

    async def renew(self, worker: str) -> bool:
        """It is there still."""
        self._give_up()
        if worker not in self._workers:
            return False
        self._ends[worker] = self._clock() + SILENT_AFTER_S
        return True

    async def withdraw(self, worker: str) -> None:
        """It is going."""
        self._workers.pop(worker, None)
        self._ends.pop(worker, None)
        self._tell()

    async def look(self) -> Known:
        """All that is known now."""
        self._give_up()
        return Known({worker: dict(models) for worker, models in self._workers.items()}, dict(self._last))

    def news(self) -> AsyncIterator[None]:
        """Something each time that there may be something new."""
        listener = Wakening()
        self._listeners.append(listener)
        listener.wake()
        return listener

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.wake()

    def _give_up(self) -> None:
        now = self._clock()
        for worker in [worker for worker, end in self._ends.items() if end <= now]:
            del self._workers[worker], self._ends[worker]
