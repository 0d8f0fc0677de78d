"""The policy to beat: classic dynamic batching with a fixed size and a fixed delay."""

from __future__ import annotations

from forebay.batching.batcher import Batcher, T
from forebay.batching.lane import Lane


class FixedSize(Batcher[T]):
    """Waits until `max_batch_rows` rows are there or the first has waited `max_queue_delay_s`, then takes what there is
    in order. Admission and early drop are the batcher's own; what it measures does not change its batches."""

    def _rows_that_pay(self, length: int) -> int:
        return self._max_rows

    def _rows_in_time(self, item: T, start: float) -> int:
        return self._max_rows

    def _held_until(self, lane: Lane[T]) -> float:
        return lane.head.arrived + self.policy.max_queue_delay_s

    def _choose(self, lane: Lane[T], skip: int, cap: int, start: float, *, probe: bool) -> tuple[list[T], bool]:
        return self._take_singly(lane, 0, self._max_rows, start), False
