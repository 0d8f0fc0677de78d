"""The policy to beat: classic dynamic batching with a fixed size and a fixed delay."""

from __future__ import annotations

from forebay.batching.batcher import Batcher, T
from forebay.batching.item import Batch, DispatchReason
from forebay.batching.lane import Lane


class FixedSize(Batcher[T]):
    """Waits until `max_batch_rows` rows are there or the first has waited `max_queue_delay_s`, then takes what there is
    in order. Admission and early drop are the batcher's own; what it measures does not change its batches."""

    def _rows_that_pay(self, length: int) -> int:
        return self._max_rows

    def _rows_in_time(self, item: T, start: float) -> int:
        return self._max_rows

    def _held_until(self, lane: Lane[T]) -> float:
        return lane.items[0].arrived + self.policy.max_queue_delay_s

    def _form_by_length(self, lane: Lane[T], start: float) -> Batch[T]:
        waiting = lane.rows
        taken, rows = self._take_singly(lane, self._max_rows, start)
        for item in taken:
            self._left(lane, item)
        reason = DispatchReason.full if rows < waiting else DispatchReason.idle
        return self._batch(taken, lane, reason)
