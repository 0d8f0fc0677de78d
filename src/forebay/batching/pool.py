"""The instances as the batcher sees them: what each one runs, what waits at it, and when it will be free."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from forebay.batching.item import Batch, Item

T = TypeVar("T", bound=Item)

HAND_OVER_WEIGHT: Final = 0.1


class Slot(Generic[T]):
    """One instance: at most one running batch and one that waits at it."""

    __slots__ = ("free_at", "instance", "running", "waiting")

    def __init__(self, instance: int, now: float) -> None:
        self.instance = instance
        self.running: Batch[T] | None = None
        self.waiting: Batch[T] | None = None
        self.free_at = now
        """When the answer to the last batch sent to it is expected."""


class Pool(Generic[T]):
    """All instances that are up, and the measured cost of handing a batch over and back."""

    __slots__ = ("_measured", "hand_over_s", "idle", "in_flight_rows", "slots")

    def __init__(self) -> None:
        self.slots: dict[int, Slot[T]] = {}
        self.idle: list[Slot[T]] = []
        self.in_flight_rows = 0
        self.hand_over_s = 0.0
        self._measured = False

    def add(self, instance: int, now: float) -> None:
        """An instance came up. Raises ValueError if it is known already."""
        if instance in self.slots:
            raise ValueError(f"instance {instance} was added twice")
        slot = self.slots[instance] = Slot[T](instance, now)
        self.idle.append(slot)

    def remove(self, instance: int) -> None:
        """An instance is gone; its batches are forgotten. Unknown ones are ignored."""
        slot = self.slots.pop(instance, None)
        if slot is None:
            return
        if slot in self.idle:
            self.idle.remove(slot)
        for batch in (slot.running, slot.waiting):
            if batch is not None:
                self.in_flight_rows -= batch.rows

    def soonest(self) -> Slot[T] | None:
        """The busy instance, with no batch waiting at it, that is free first."""
        best: Slot[T] | None = None
        for slot in self.slots.values():
            if slot.waiting is None and slot.running is not None and (best is None or slot.free_at < best.free_at):
                best = slot
        return best

    def send(self, slot: Slot[T], batch: Batch[T], now: float) -> None:
        """Note that a batch goes to an instance now."""
        batch.instance = slot.instance
        batch.sent_at = now
        if slot.running is None:
            slot.running = batch
            slot.free_at = now + self.hand_over_s + batch.predicted_s
            self.idle.remove(slot)
        else:
            slot.waiting = batch
            batch.early = True
            slot.free_at = max(slot.free_at, now) + batch.predicted_s
        self.in_flight_rows += batch.rows

    def finished(self, batch: Batch[T], now: float, busy_s: float) -> None:
        """An instance has answered; learn the hand-over cost from it."""
        if not batch.early:
            extra = max(0.0, now - batch.sent_at - busy_s)
            if not self._measured:
                self._measured = True
                self.hand_over_s = extra
            else:
                # A stall of our own loop is no hand-over cost: one sample moves the mean by a fifth at most.
                seen = min(extra, 3 * self.hand_over_s + 1e-5)
                self.hand_over_s += HAND_OVER_WEIGHT * (seen - self.hand_over_s)
        self.release(batch, now)

    def release(self, batch: Batch[T], now: float) -> None:
        """A batch is no longer at its instance. Batches of instances that are gone are ignored."""
        slot = self.slots.get(batch.instance)
        if slot is None:
            return
        if slot.waiting is batch:
            slot.waiting = None
            slot.free_at -= batch.predicted_s
        elif slot.running is batch:
            slot.running, slot.waiting = slot.waiting, None
            if slot.running is None:
                slot.free_at = now
                self.idle.append(slot)
            else:
                slot.free_at = now + slot.running.predicted_s
        else:
            return
        self.in_flight_rows -= batch.rows

    def free_times(self, now: float) -> list[float]:
        """When each instance could give its first answer to a batch of no cost, soonest first."""
        idle_at = now + self.hand_over_s
        return sorted(idle_at if s.running is None else max(s.free_at, now) for s in self.slots.values())
