"""The thread that writes: it gathers what was taken for a moment, redacts it, and appends it to files.

The event loop never waits for it. What it has not got to is bounded in bytes; beyond that rows are counted and dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from forebay.cache.key import KeyMaker, digest_of
from forebay.core.request import Payload, Request, payload_array
from forebay.core.tensors import Array
from forebay.models.signature import Signature
from forebay.request_log.redaction import Redact, RedactionError, redacted
from forebay.request_log.row import KEY_BYTES, NO_TENANT, Body, Origin, Row, Tensor, body_of, data_of, encode
from forebay.request_log.sampler import Taken
from forebay.request_log.store import Entry, Store
from forebay.telemetry.logs import fields
from forebay.telemetry.request_log_metrics import RequestLogCounts, RequestLogMetrics

log = logging.getLogger("forebay.request_log")

MOST_QUEUED_BYTES: Final = 32 << 20
GATHER_S: Final = 1.0
"""From the first that is taken until it is written. Whenever the thread wakes or has called the system it takes turns
with the loop, which then sleeps on a machine that is busy; some ten times for all that is gathered."""
ROW_BYTES: Final = 500
"""Of what is queued beside its data, roughly."""


class Destination:
    """Where the rows of one version of a model go: a `Target` of its sampler."""

    def __init__(
        self,
        writer: Writer,
        store: Store,
        origin: Origin,
        signature: Signature,
        redact: Redact | None,
        counts: RequestLogCounts,
    ) -> None:
        """`origin`: with the tenant left empty, and without a word on redaction."""
        self.store = store
        self.origin = msgspec.structs.replace(origin, redacted=redact is not None)
        self.counts = counts
        self._writer = writer
        self._signature = signature
        self._redact = redact
        self._keys = KeyMaker(origin.model, origin.version, origin.digest, signature)
        self._names_in = [spec.name for spec in signature.inputs]
        self._names_out = [spec.name for spec in signature.outputs]
        self._origins: dict[str, Origin] = {}
        self._told = 0.0

    def has_room(self, nbytes: int) -> bool:
        """See `Target`."""
        return self._writer.has_room(nbytes)

    def put(self, taken: Taken) -> None:
        """See `Target`."""
        self._writer.put(self, taken)

    # -- on the writing thread ----------------------------------------------------------------------------------------

    def entries(self, taken: Taken) -> Iterator[Entry]:
        """What is to be written of it."""
        origin = self._origins.get(taken.tenant)
        if origin is None:
            origin = msgspec.structs.replace(self.origin, tenant=taken.tenant)
            self._origins[taken.tenant] = origin
        if taken.rows == 1 and self._redact is None and self._signature.batched:
            yield self._as_it_came(origin, taken)
            return
        for row in self._rows(taken):
            allowed: Row | None = row
            if self._redact is not None:
                try:
                    allowed = redacted(self._redact, row)
                except RedactionError as error:
                    self.counts.drop("redaction_failed", 1)
                    self._tell(str(error))
                    continue
            if allowed is None:
                self.counts.drop("redacted", 1)
                continue
            body = body_of(allowed)
            yield Entry(origin, self._key(body, taken.tenant), encode(body), self.counts)

    def _as_it_came(self, origin: Origin, taken: Taken) -> Entry:
        """A single row that nobody changes: what it brought is written, without arrays in between."""
        tenant = "" if taken.tenant == NO_TENANT else taken.tenant
        request = Request(taken.inputs, taken.shapes, 1, 0, 0.0, 0.0, _nobody, parameters=taken.parameters)
        key = digest_of(self._keys.of(request, tenant))[:KEY_BYTES]  # which packs what came as a list
        signature = self._signature
        inputs = [
            Tensor(spec.name, spec.datatype, shape, data)  # type: ignore[arg-type]
            for spec, shape, data in zip(signature.inputs, taken.shapes, taken.inputs, strict=True)
        ]
        outputs = [
            Tensor(spec.name, spec.datatype, array.shape[1:], data_of(array))
            for spec, array in zip(signature.outputs, taken.outputs, strict=True)
        ]
        body = Body(taken.at, inputs, outputs, taken.parameters or {})
        return Entry(origin, key, encode(body), self.counts)

    def _tell(self, reason: str) -> None:
        """At most once a minute: a function that fails often fails always."""
        now = time.monotonic()
        if not self._told or now - self._told > 60.0:
            self._told = now
            where = fields(model=self.origin.model, version=self.origin.version)
            log.error("request_log_redact failed, so that the row is not logged: %s", reason, extra=where)

    def _rows(self, taken: Taken) -> Iterator[Row]:
        signature = self._signature
        parameters = taken.parameters or {}
        inputs: list[Array] = []
        for payload, spec, shape in zip(taken.inputs, signature.inputs, taken.shapes, strict=True):
            full = (taken.rows, *shape) if signature.batched else shape
            inputs.append(payload_array(payload, spec.datatype, full))
        names_in, names_out = self._names_in, self._names_out
        if not signature.batched:
            outputs = dict(zip(names_out, taken.outputs, strict=True))
            yield Row(taken.at, dict(zip(names_in, inputs, strict=True)), outputs, parameters)
            return
        for place in range(taken.rows):
            yield Row(
                taken.at,
                {name: array[place, ...] for name, array in zip(names_in, inputs, strict=True)},
                {name: array[place, ...] for name, array in zip(names_out, taken.outputs, strict=True)},
                parameters,
            )

    def _key(self, body: Body, tenant: str) -> bytes:
        """The key that the answer cache has for such a row asked alone. Of what is written, never of what is not:
        from a digest of a short secret the secret is soon found."""
        payloads: list[Payload] = [tensor.data for tensor in body.inputs]
        shapes = tuple([tensor.shape for tensor in body.inputs])
        if len(payloads) < len(self._names_in):
            there = {tensor.name: tensor for tensor in body.inputs}
            payloads = [there[name].data if name in there else b"" for name in self._names_in]
            shapes = tuple([there[name].shape if name in there else (-1,) for name in self._names_in])
        request = Request(payloads, shapes, 1, 0, 0.0, 0.0, _nobody, parameters=body.parameters or None)
        key = self._keys.of(request, "" if tenant == NO_TENANT else tenant)
        return digest_of(key)[:KEY_BYTES]


def _nobody(request: Request) -> None:
    pass


class Writer:
    """The thread and its queue, for all models of a process."""

    def __init__(
        self,
        metrics: RequestLogMetrics,
        *,
        most_queued_bytes: int = MOST_QUEUED_BYTES,
        gather_s: float = GATHER_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._most_queued_bytes = most_queued_bytes
        self._gather_s = gather_s
        self._clock = clock
        self._queue: deque[tuple[Destination, Taken | None]] = deque()
        # Each is written by one thread only; what is queued is their difference.
        self._put_bytes = 0
        self._done_bytes = 0
        self._news = threading.Event()
        self._ends = threading.Event()
        self._stores: dict[Path, Store] = {}
        self._thread: threading.Thread | None = None

    def store(self, model: str, path: Path, bound_bytes: int) -> Store:
        """The folder of a model, with the bound that was told last. Not on the writing thread."""
        store = self._stores.get(path)
        if store is None:
            store = self._stores[path] = Store(model, path, bound_bytes, self._clock)
        store.bound_bytes = bound_bytes
        return store

    # -- on the event loop --------------------------------------------------------------------------------------------

    def has_room(self, nbytes: int) -> bool:
        """Whether one of so many bytes can be queued."""
        queued_bytes = self._put_bytes - self._done_bytes
        return queued_bytes + nbytes + ROW_BYTES <= self._most_queued_bytes and not self._ends.is_set()

    def put(self, destination: Destination, taken: Taken | None) -> None:
        """Queue it. None: nothing more comes from there."""
        if taken is not None:
            self._put_bytes += taken.nbytes + ROW_BYTES
        elif self._thread is None:
            return
        self._queue.append((destination, taken))
        if self._thread is None:
            # It ends with the process: a function of the user's that hangs must not keep that from ending.
            self._thread = threading.Thread(target=self._run, name="forebay request log", daemon=True)
            self._thread.start()
        if not self._news.is_set():
            self._news.set()

    def close(self, grace_s: float) -> None:
        """Write what is queued, at most so long; waits. Nothing is taken from now on."""
        self._ends.set()
        self._news.set()
        if self._thread is None:
            return
        self._thread.join(grace_s)
        if self._thread.is_alive():
            left = [taken for _, taken in list(self._queue) if taken is not None]
            log.warning("the request log was not done in %g s: %d requests are not in it", grace_s, len(left))

    # -- on the writing thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._ends.wait(self._gather_s)
            self._news.clear()
            last = self._ends.is_set()
            try:
                self._drain()
            except Exception as error:  # without it nothing would ever be written again, and all be counted as too much
                log.error("the request log failed: %s", type(error).__name__, exc_info=error)
            if last:
                break
        for store in self._stores.values():
            store.close()

    def _drain(self) -> None:
        """Write all that is there by now."""
        taken_out = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            self._write(taken_out)
        finally:
            self._done_bytes += sum(taken.nbytes + ROW_BYTES for _, taken in taken_out if taken is not None)

    def _write(self, taken_out: Sequence[tuple[Destination, Taken | None]]) -> None:
        by_store: dict[Store, list[Entry]] = {}
        parting: list[Destination] = []
        for destination, taken in taken_out:
            if taken is None:
                parting.append(destination)
                continue
            entries = by_store.setdefault(destination.store, [])
            try:
                entries += list(destination.entries(taken))  # all of them, or none
            except Exception as error:  # the thread goes on whatever happens; the text may hold what must not be told
                destination.counts.drop("stopped", taken.rows)
                name = destination.origin.model
                log.error("a request could not be logged: %s", type(error).__name__, extra=fields(model=name))
        for store, entries in by_store.items():
            try:
                store.append(entries)
            except Exception as error:
                log.error("the request log failed: %s", type(error).__name__, exc_info=error)
            if entries:
                self._metrics.held_bytes[entries[0].origin.model] = store.held_bytes
        for destination in parting:
            origin = destination.origin
            destination.store.let_go(origin.version, origin.digest)
