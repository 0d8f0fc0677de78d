"""The endings of requests: each that was admitted gets exactly one answer, and is counted until then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from forebay.batching import Batch
from forebay.core.errors import ForebayError
from forebay.core.request import Outputs, Request
from forebay.engine.flight import nobody
from forebay.engine.record import Recorder
from forebay.request_log.sampler import Sampler
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")


class Answers:
    """Gives answers and counts who still waits for one. The only place that calls `on_done`."""

    def __init__(self, model: str, record: Recorder) -> None:
        self.in_flight = 0
        self.sampler: Sampler | None = None
        """Chooses what of the answered is written down; None: nothing is."""
        self._model = model
        self._record = record
        self._none_left = asyncio.Event()

    def deliver(self, batch: Batch[Request], outputs: Outputs, now: float) -> None:
        """A batch came back: each request gets its rows."""
        items = batch.items
        arrived = [item.arrived for item in items if item.on_done is not nobody and item.pieces is None]
        self._record.answered(arrived, batch.sent_at, now)
        if self.sampler is not None and (runs := self.sampler.due(len(items))):
            self._sample(self.sampler, items, runs, outputs)
        outputs.items = items
        row = left = 0
        for item in items:
            item.outputs = outputs
            item.row_start = row
            row += item.rows
            if item.explain or item.pieces is not None:
                self._tell_of_batch(batch, item)
            on_done = item.on_done
            if on_done is not nobody and item.pieces is None:
                left += 1  # counted here, since a callback may cancel a later item
            item.on_done = nobody
            try:
                on_done(item)
            except Exception:
                log.exception("an answer could not be delivered", extra=fields(model=self._model))
        outputs.items = ()
        self._less(left)

    def deliver_behind(self, batch: Batch[Request], outputs: Outputs, now: float, busy_s: float) -> None:
        """A batch of jobs came back. They are no part of what is told about requests that somebody waits for."""
        row = left = 0
        if self.sampler is not None and (runs := self.sampler.due(len(batch.items))):
            self._sample(self.sampler, batch.items, runs, outputs)
        for item in batch.items:
            assert item.background is not None
            item.outputs = outputs
            item.row_start = row
            row += item.rows
            item.background.compute_s = busy_s
            self._tell_of_batch(batch, item)
            on_done = item.on_done
            if on_done is not nobody and item.pieces is None:
                left += 1
            item.on_done = nobody
            try:
                on_done(item)
            except Exception:
                log.exception("an answer could not be delivered", extra=fields(model=self._model))
        self._less(left)

    @staticmethod
    def _sample(sampler: Sampler, items: Sequence[Request], runs: Sequence[tuple[int, int]], outputs: Outputs) -> None:
        """Write down those of these runs of places, before anybody is told. Of a split request the whole is."""
        row = begun = 0
        for start, stop in runs:
            row += sum([item.rows for item in items[begun:start]])
            chosen, begun = items[start:stop], stop
            if all(item.on_done is not nobody and item.pieces is None for item in chosen):
                sampler.take_run(chosen, outputs, row)
                row += sum([item.rows for item in chosen])
                continue
            for item in chosen:
                if item.on_done is not nobody and not isinstance(item.pieces, Request):
                    sampler.take(item, outputs, row)
                row += item.rows

    @staticmethod
    def _tell_of_batch(batch: Batch[Request], item: Request) -> None:
        item.batch_rows, item.queue_s = batch.rows, batch.sent_at - item.arrived
        item.dispatch_reason, item.padding_waste = batch.reason.value, batch.padding_waste

    def early(self, batch: Batch[Request], item: Request, outputs: Outputs, now: float) -> None:
        """One request of a batch is complete while the batch still runs, or is at its end; `outputs` are its own."""
        on_done = item.on_done
        if on_done is nobody:
            return
        item.outputs, item.row_start = outputs, 0
        if item.background is not None:
            item.background.compute_s = now - batch.sent_at
        if item.explain or item.pieces is not None or item.background is not None:
            self._tell_of_batch(batch, item)
        if self.sampler is not None and self.sampler.due(1):
            self._sample(self.sampler, (item,), ((0, 1),), outputs)
        item.on_done = nobody
        counted = item.pieces is None
        if counted and item.background is None:
            self._record.answered([item.arrived], batch.sent_at, now)
        try:
            on_done(item)
        except Exception:
            log.exception("an answer could not be delivered", extra=fields(model=self._model))
        if counted:
            self._less(1)

    def whole(self, request: Request, sent_at: float, now: float) -> None:
        """A request that was not answered as a row of its batch: it was split, or has no rows. `outputs` are set."""
        on_done, request.on_done = request.on_done, nobody
        if request.background is None:
            self._record.answered([request.arrived], sent_at, now)
        if self.sampler is not None and request.rows and self.sampler.due(1):
            assert request.outputs is not None
            self.sampler.take(request, request.outputs, 0)
        self._less(1)
        on_done(request)

    def fail(self, item: Request, error: ForebayError) -> None:
        """Answer with an error, unless there has been an answer. A piece of a split request is not counted itself."""
        on_done = item.on_done
        if on_done is nobody:
            return
        item.error = error
        item.on_done = nobody
        whole = not isinstance(item.pieces, Request)
        if whole and item.background is None:
            self._record.error(error.code)
        try:
            on_done(item)
        except Exception:
            log.exception("an error could not be delivered", extra=fields(model=self._model))
        if whole:
            self._less(1)

    def canceled(self, request: Request) -> None:
        """A caller left; its `on_done` has been taken away."""
        if request.background is None:
            self._record.canceled()
        self._less(1)

    def _less(self, requests: int) -> None:
        self.in_flight -= requests
        if self.in_flight == 0:
            self._none_left.set()

    async def all_given(self, grace_s: float | None) -> None:
        """Wait until nobody waits for an answer, at most so long; None: however long that takes."""
        if not self.in_flight:
            return
        self._none_left.clear()
        try:
            async with asyncio.timeout(grace_s):
                await self._none_left.wait()
        except TimeoutError:
            log.warning("%d requests were still in flight at shutdown", self.in_flight, extra=fields(model=self._model))
