"""Redacts what was taken and appends it to files: what the log's own process does.

Nothing here waits for anybody, and nobody waits for it; see `spool` for the other side.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from forebay.cache.key import KeyMaker, digest_of
from forebay.core.errors import SetupError
from forebay.core.request import Payload, Request, payload_array
from forebay.core.tensors import Array, from_buffer
from forebay.request_log.redaction import Redact, RedactionError, load_redaction, redacted
from forebay.request_log.row import KEY_BYTES, NO_TENANT, Body, Origin, Row, Tensor, body_of, encode
from forebay.request_log.store import Entry, Store
from forebay.request_log.wire import Counted, Opening, Report, Run, Taken
from forebay.telemetry.logs import fields
from forebay.telemetry.request_log_metrics import RequestLogCounts

log = logging.getLogger("forebay.request_log")


class Destination:
    """Where the rows of one version of a model go."""

    def __init__(self, opening: Opening, store: Store, redact: Redact | None) -> None:
        origin, signature = opening.origin, opening.signature
        self.store = store
        self.origin = msgspec.structs.replace(origin, redacted=redact is not None)
        self.counts = RequestLogCounts()
        self._signature = signature
        self._redact = redact
        self._keys = KeyMaker(origin.model, origin.version, origin.digest, signature)
        self._names_in = [spec.name for spec in signature.inputs]
        self._origins: dict[str, Origin] = {}
        self._told = 0.0

    def entries(self, taken: Taken) -> Iterator[Entry]:
        """What is to be written of it."""
        origin = self._origin(taken.tenant)
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

    def run_entries(self, run: Run) -> list[Entry]:
        """What is to be written of rows that nobody looks at: as `entries` of each, with all that they share done
        once."""
        signature, counts, key_of = self._signature, self.counts, self._keys.of
        origin, tenant = self._origin(run.tenant), "" if run.tenant == NO_TENANT else run.tenant
        specs_in = [(spec.name, spec.datatype, shape) for spec, shape in zip(signature.inputs, run.shapes, strict=True)]
        specs_out = [(spec.name, spec.datatype) for spec in signature.outputs]
        request = Request([], run.shapes, 1, 0, 0.0, 0.0, _nobody)
        found = []
        for inputs, answer in zip(run.inputs, zip(*run.answers(), strict=True), strict=True):
            request.inputs = inputs
            key = digest_of(key_of(request, tenant))[:KEY_BYTES]  # which packs what came as a list
            brought = [Tensor(*spec, data) for spec, data in zip(specs_in, inputs, strict=True)]
            got = [Tensor(*spec, *one) for spec, one in zip(specs_out, answer, strict=True)]
            found.append(Entry(origin, key, encode(Body(run.at, brought, got)), counts))
        return found

    @property
    def looks(self) -> bool:
        """Whether somebody looks at its rows before they are written."""
        return self._redact is not None

    def _origin(self, tenant: str) -> Origin:
        origin = self._origins.get(tenant)
        if origin is None:
            origin = self._origins[tenant] = msgspec.structs.replace(self.origin, tenant=tenant)
        return origin

    def _as_it_came(self, origin: Origin, taken: Taken) -> Entry:
        """A single row that nobody changes: what it brought is written, without arrays in between."""
        tenant = "" if taken.tenant == NO_TENANT else taken.tenant
        request = Request(taken.inputs, taken.shapes, 1, 0, 0.0, 0.0, _nobody, parameters=taken.parameters)
        key = digest_of(self._keys.of(request, tenant))[:KEY_BYTES]  # which packs what came as a list
        signature = self._signature
        inputs = [
            Tensor(spec.name, spec.datatype, shape, data)
            for spec, shape, data in zip(signature.inputs, taken.shapes, taken.inputs, strict=True)
        ]
        outputs = [
            Tensor(spec.name, spec.datatype, shape[1:], data)
            for spec, (shape, data) in zip(signature.outputs, taken.outputs, strict=True)
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
        inputs: dict[str, Array] = {}
        for payload, spec, shape in zip(taken.inputs, signature.inputs, taken.shapes, strict=True):
            full = (taken.rows, *shape) if signature.batched else shape
            inputs[spec.name] = payload_array(payload, spec.datatype, full)
        outputs: dict[str, Array] = {
            spec.name: from_buffer(data, spec.datatype, shape, spec.name)
            for spec, (shape, data) in zip(signature.outputs, taken.outputs, strict=True)
        }
        if not signature.batched:
            yield Row(taken.at, inputs, outputs, parameters)
            return
        for place in range(taken.rows):
            yield Row(
                taken.at,
                {name: array[place, ...] for name, array in inputs.items()},
                {name: array[place, ...] for name, array in outputs.items()},
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


def _unusable(row: dict[str, Any]) -> None:
    """In place of a function that could be loaded when the model was, and cannot now: no row is written without it."""
    raise LookupError


class Writer:
    """The logs of all models of one serving process."""

    def __init__(self) -> None:
        self._stores: dict[Path, Store] = {}
        self._places: dict[int, Destination] = {}
        self._gathered: dict[Store, list[Entry]] = {}
        self._counted: list[Counted] = []
        self._held_bytes: dict[str, int] = {}

    def open(self, place: int, opening: Opening) -> Destination:
        """A log, known by this number from now on."""
        path, origin = Path(opening.folder), opening.origin
        store = self._stores.get(path)
        if store is None:
            store = self._stores[path] = Store(origin.model, path, opening.bound_bytes, time.time)
        store.bound_bytes = opening.bound_bytes
        redact: Redact | None = None
        if opening.redact is not None:
            try:
                redact = load_redaction(origin.model, opening.redact)
            except SetupError as error:
                log.error("%s", error, extra=fields(model=origin.model))
                redact = _unusable
        found = self._places[place] = Destination(opening, store, redact)
        return found

    def take(self, place: int, taken: Taken) -> None:
        """Gather what is to be written of a request: all of it, or nothing."""
        destination = self._places[place]
        try:
            entries = list(destination.entries(taken))
        except Exception as error:  # the others go on whatever happens; the text may hold what must not be told
            destination.counts.drop("stopped", taken.rows)
            name = destination.origin.model
            log.error("a request could not be logged: %s", type(error).__name__, extra=fields(model=name))
        else:
            self._gathered.setdefault(destination.store, []).extend(entries)

    def take_run(self, place: int, run: Run) -> None:
        """The same of several, of which one that cannot be written costs the others nothing."""
        destination = self._places[place]
        if not destination.looks:
            try:
                entries = destination.run_entries(run)
            except Exception:
                entries = []
            if entries:
                self._gathered.setdefault(destination.store, []).extend(entries)
                return
        for taken in run.one_by_one():
            self.take(place, taken)

    def leave(self, place: int) -> None:
        """Nothing more comes of this log, unless it is opened anew."""
        self._append()
        destination = self._places.pop(place)
        self._count(place, destination)
        destination.store.let_go(destination.origin.version, destination.origin.digest)

    def flush(self) -> Report:
        """Write what is gathered."""
        self._append()
        for place, destination in self._places.items():
            self._count(place, destination)
        report = Report(self._counted, self._held_bytes, [])
        self._counted, self._held_bytes = [], {}
        return report

    def close(self) -> None:
        """Nothing more comes."""
        for store in self._stores.values():
            store.close()

    def _append(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for store, entries in gathered.items():
            if not entries:
                continue
            try:
                store.append(entries)
            except Exception as error:
                log.error("the request log failed: %s", type(error).__name__, exc_info=error)
            self._held_bytes[entries[0].origin.model] = store.held_bytes

    def _count(self, place: int, destination: Destination) -> None:
        counts = destination.counts
        if counts.written or counts.dropped:
            self._counted.append(Counted(place, counts.written, counts.written_bytes, counts.dropped))
            counts.written, counts.written_bytes, counts.dropped = 0, 0, {}
