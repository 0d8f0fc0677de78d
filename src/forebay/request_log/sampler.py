"""The side of the log that runs on the event loop: who is chosen, and a copy of what they brought and got."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import Final, Protocol

from forebay.core.request import Outputs, Request
from forebay.core.tensors import Array
from forebay.models.signature import Signature
from forebay.request_log.row import NO_TENANT, data_of
from forebay.request_log.sampling import Skips
from forebay.request_log.wire import Run, Taken
from forebay.telemetry.logs import fields
from forebay.telemetry.request_log_metrics import RequestLogCounts

log = logging.getLogger("forebay.request_log")

MOST_BYTES: Final = 4 << 20
"""Of one request with its answer: to copy more would hold up all others."""
NUMBER_BYTES: Final = 9
"""Of a number that came as JSON, on its way to the process that writes."""
LONGEST_RUN: Final = 8
"""Requests that are written together where many are answered together. The first of a run costs some five times what
each further one does: its code has left the processor's caches since the last time."""
RUNS: Final = 4
"""Of which a batch has at least as many as one of these are chosen, so that few neighbours are all there is of it."""


class Target(Protocol):
    """Where they go."""

    def has_room(self, nbytes: int) -> bool:
        """Whether there is room for one of so many bytes. Never waits."""
        ...

    def put(self, taken: Taken | Run) -> None:
        """Have it written, later. Never waits, and keeps nothing of it that others may write to."""
        ...


class Sampler:
    """Of one version of a model. All calls are made on the event loop."""

    def __init__(
        self,
        signature: Signature,
        share: float,
        target: Target,
        counts: RequestLogCounts,
        *,
        left_out: Sequence[str] = (),
        most_bytes: int = MOST_BYTES,
        model: str = "",
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`left_out`: tenants that are not written. `clock`: seconds since 1970."""
        self._signature = signature
        self._plain = signature.batched and all(spec.datatype != "BYTES" for spec in signature.outputs)
        """Whether all that its outputs have of some rows can be had in one piece."""
        self._target = target
        self._counts = counts
        self._left_out = frozenset(left_out)
        self._most_bytes = most_bytes
        self._model = model
        self._clock = clock
        self._skips = Skips(share, seed)
        self._left = self._skips.next()
        """How many runs are passed over until the next one."""

    def due(self, requests: int) -> Sequence[tuple[int, int]]:
        """Which of so many requests that are answered together are written: runs of places, each from the first up to
        the one behind the last. Mostly none, and then this is all that the log costs. A run is chosen as a whole, and
        each request is in one run, so that all have the same chance."""
        run = min(requests // RUNS, LONGEST_RUN) or 1
        runs = -(-requests // run)
        self._left -= runs
        if self._left >= 0:
            return ()
        chosen = runs + self._left
        places = []
        while chosen < runs:
            places.append((chosen * run, min(chosen * run + run, requests)))
            chosen += 1 + self._skips.next()
        self._left = chosen - runs
        return places

    def take_run(self, requests: Sequence[Request], outputs: Outputs, row_start: int) -> None:
        """Write these, whose rows follow upon each other from there in these outputs. Never raises."""
        try:
            done = self._plain and len(requests) > 1 and self._take_as_one(requests, outputs, row_start)
        except Exception:  # whichever it was of is told below
            done = False
        if done:
            return
        for request in requests:
            self.take(request, outputs, row_start)
            row_start += request.rows

    def _take_as_one(self, requests: Sequence[Request], outputs: Outputs, row_start: int) -> bool:
        """Whether they could be written with one step for all: most can, and it costs a fifth."""
        first = requests[0]
        tenant, shapes = first.tenant, first.shapes
        name = tenant or NO_TENANT
        if name in self._left_out:
            return False
        nbytes, inputs = 0, []
        for request in requests:
            if (
                request.rows != 1
                or request.parameters is not None
                or request.tenant != tenant
                or request.shapes != shapes
            ):
                return False
            nbytes += request.nbytes
            inputs.append(request.inputs)
        rows = len(inputs)
        answer = [(array.shape[1:], array[row_start : row_start + rows].tobytes()) for array in outputs.arrays]
        nbytes += sum([len(data) for _, data in answer])
        numbers = rows * sum([len(one) for one in first.inputs if type(one) is list])
        if nbytes > self._most_bytes or not self._target.has_room(nbytes + NUMBER_BYTES * numbers):
            return False
        self._target.put(Run(name, self._clock(), rows, shapes, inputs, answer))
        self._counts.sampled += rows
        return True

    def take(self, request: Request, outputs: Outputs, row_start: int) -> None:
        """Write this one, whose rows begin there in these outputs. Never raises: nobody's answer depends on it."""
        try:
            self._take(request, outputs, row_start)
        except Exception as error:  # its text may hold what must not be told
            self._counts.drop("stopped", request.rows)
            log.error("a request could not be logged: %s", type(error).__name__, extra=fields(model=self._model))

    def _take(self, request: Request, outputs: Outputs, row_start: int) -> None:
        rows, counts = request.rows, self._counts
        counts.sampled += rows
        tenant = request.tenant or NO_TENANT
        if tenant in self._left_out:
            counts.drop("excluded", rows)
            return
        arrays = outputs.arrays
        if self._signature.batched:
            arrays = [array[row_start : row_start + rows] for array in arrays]
        nbytes = request.nbytes + sum(map(_size, arrays))
        if request.parameters is not None:
            nbytes += sum(getsizeof(name) + getsizeof(value) for name, value in request.parameters.items())
        sent_bytes = nbytes + sum([NUMBER_BYTES * len(one) for one in request.inputs if type(one) is list])
        if nbytes > self._most_bytes:
            counts.drop("too_large", rows)
        elif not self._target.has_room(sent_bytes):
            counts.drop("queue_full", rows)
        else:
            answer = [(array.shape, data_of(array)) for array in arrays]
            now = self._clock()
            self._target.put(Taken(tenant, now, rows, request.shapes, request.inputs, answer, request.parameters))


def _size(array: Array) -> int:
    if array.dtype != object:
        return int(array.nbytes)
    return sum(4 + len(value) for value in array.reshape(-1).tolist())
