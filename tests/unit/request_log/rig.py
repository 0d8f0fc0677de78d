"""Logs of a model that exists only here, in a folder of the test's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.request import Outputs, Request
from forebay.core.settings import ModelSettings
from forebay.core.tensors import Array, bytes_array, pack_bytes
from forebay.models.signature import Signature, TensorSpec
from forebay.request_log import wire
from forebay.request_log.folder import model_folder
from forebay.request_log.logs import RequestLogs
from forebay.request_log.reading import Found, Reading
from forebay.request_log.row import data_of
from forebay.request_log.sampler import Sampler
from forebay.request_log.spool import Outlet, Spool
from forebay.request_log.store import Entry
from forebay.request_log.wire import Taken
from forebay.request_log.writer import Destination, Writer
from forebay.telemetry.request_log_metrics import RequestLogCounts, RequestLogMetrics

NUMBERS = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (1,)),))
TEXTS = Signature((TensorSpec("text", "BYTES", (1,)),), (TensorSpec("upper", "BYTES", (1,)),))


class Near(Spool):
    """Both sides in one process: what is sent is read at once, and written by `settle`."""

    def __init__(self, metrics: RequestLogMetrics) -> None:
        super().__init__(metrics)
        self.writer = Writer()

    def _say(self, kind: int, place: int, body: bytes) -> None:
        if kind == wire.OPEN:
            self.writer.open(place, wire.decode_opening(body))
        elif kind == wire.RUN:
            self.writer.take_run(place, wire.decode_run(body))
        elif kind == wire.TAKEN:
            self.writer.take(place, wire.decode_taken(body))
        else:
            self.writer.leave(place)

    def settle(self) -> None:
        """Write, and hear what became of it."""
        self._on_report(wire.decode_report(wire.encode(self.writer.flush())))

    def destination(self, outlet: Outlet) -> Destination:
        """What the writing side has of a log."""
        self._introduce(outlet)
        return self.writer._places[outlet.place]


class Rig:
    """One serving process that logs model `m`. What `ask` has answered is on disk after `close`."""

    def __init__(
        self,
        data_dir: Path,
        signature: Signature = NUMBERS,
        *,
        version: str = "1",
        labels: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.data_dir = data_dir
        self.signature = signature
        self.logs = RequestLogs()
        self.near = self.logs.spool = Near(self.logs.metrics)
        chosen = ModelSettings(**{"request_log": 1.0, **settings})
        opened = self.logs.open("m", version, "d" + version, signature, labels, chosen, data_dir)
        assert opened is not None
        self.sampler: Sampler = opened[0]
        self.outlet: Outlet = opened[1]
        self.destination = self.near.destination(self.outlet)

    @property
    def counts(self) -> RequestLogCounts:
        """What a scrape of the metrics would find, once all is reported."""
        self.near.settle()
        return self.logs.metrics.of("m", self.destination.origin.version)

    def ask(self, *rows: Any, tenant: str = "", answer: Any = None, **parameters: Any) -> None:
        """A request of these rows is answered, as a batch of its own: numbers by their first, texts in upper case."""
        request, outputs = answered(self.signature, *rows, tenant=tenant, answer=answer, **parameters)
        for _ in self.sampler.due(1):
            self.sampler.take(request, outputs, 0)

    def ask_together(self, *rows: Any, tenant: str = "") -> None:
        """Requests of a row each are answered as one batch, and all of them written."""
        made = [answered(self.signature, row, tenant=tenant) for row in rows]
        parts = [outputs for _, outputs in made]
        arrays = [np.concatenate([part.arrays[place] for part in parts]) for place in range(len(parts[0].arrays))]
        outputs = Outputs(parts[0].names, parts[0].datatypes, arrays, len(rows))
        self.sampler.take_run([request for request, _ in made], outputs, 0)

    def close(self) -> Rig:
        """The process ends."""
        self.near.settle()
        self.near.writer.close()
        return self

    def read(self, **chosen: Any) -> list[Found]:
        """What is in the log."""
        return list(Reading(self.folder, **chosen))

    @property
    def folder(self) -> Path:
        return model_folder(self.data_dir, "m")


def answered(
    signature: Signature, *rows: Any, tenant: str = "", answer: Any = None, **parameters: Any
) -> tuple[Request, Outputs]:
    """A request that is done, and the outputs of its batch."""
    payload: Any
    array: Array
    if signature.inputs[0].datatype == "BYTES":
        texts = [row.encode() if isinstance(row, str) else row for row in rows]
        payload, shape = pack_bytes(texts), (1,)
        array = bytes_array([text.upper() if answer is None else answer for text in texts], (len(rows), 1))
    else:
        payload, shape = [float(value) for row in rows for value in row], (len(rows[0]),)
        array = np.array([[row[0] if answer is None else answer] for row in rows], np.float32)
    nbytes = 4 * len(payload) if isinstance(payload, list) else len(payload)
    request = Request([payload], (shape,), len(rows), nbytes, 0.0, 0.0, lambda _: None, tenant=tenant)
    request.parameters = parameters or None
    specs = signature.outputs
    return request, Outputs([spec.name for spec in specs], [spec.datatype for spec in specs], [array], len(rows))


def entries(rig: Rig, *words: str) -> list[Entry]:
    """What would be appended for texts that are answered."""
    found: list[Entry] = []
    for word in words:
        request, outputs = answered(rig.signature, word)
        answer = [(array.shape, data_of(array)) for array in outputs.arrays]
        taken = Taken("anonymous", 1_700_000_000.0, 1, request.shapes, request.inputs, answer, None)
        found += rig.destination.entries(taken)
    return found


def texts_of(found: Sequence[Found]) -> list[str]:
    """The texts of rows."""
    return [one.row.inputs["text"].item().decode() for one in found]


def numbers_of(found: Sequence[Found]) -> list[list[float]]:
    """The numbers of rows."""
    return [one.row.inputs["x"].tolist() for one in found]


def all_bytes(folder: Path) -> bytes:
    """Everything in all files of a folder, their names included."""
    return b"".join(
        str(path).encode() + (path.read_bytes() if path.is_file() else b"") for path in sorted(folder.rglob("*"))
    )
