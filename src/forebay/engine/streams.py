"""What a model that streams says while a batch runs, handed to each request by row; and telling it who has left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec

from forebay.core.errors import ForebayError
from forebay.core.request import Outputs, Request
from forebay.core.tensors import stack_rows
from forebay.engine import frames
from forebay.engine.answers import Answers
from forebay.engine.assemble import scatter_rows
from forebay.engine.flight import Flight, Streamed, nobody
from forebay.engine.instance import Instance
from forebay.engine.record import Recorder
from forebay.models.signature import Signature
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")


class Streams:
    """The streaming side of one engine, on its loop."""

    def __init__(self, model: str, answers: Answers, record: Recorder, clock: Callable[[], float]) -> None:
        self._model = model
        self._answers = answers
        self._record = record
        self._clock = clock
        self._signature: Signature
        self._piece = msgspec.msgpack.Decoder(frames.PieceHeader)
        self._progress = msgspec.msgpack.Decoder(frames.ProgressHeader)

    def learn(self, signature: Signature) -> None:
        """What the model is, once it is known."""
        self._signature = signature

    def depart(self, flight: Flight) -> list[int]:
        """A batch is about to leave; returns its rows whose callers want pieces."""
        flight.streamed = streamed = Streamed(flight.batch.items)
        return [row for row, (item, _) in enumerate(streamed.owners) if item.listener is not None]

    def heard(self, instance: Instance, kind: int, header: bytes, payload: memoryview) -> None:
        """A PIECE, PROGRESS or ENDED frame. Raises `ValueError` or `KeyError` for one that cannot be right."""
        if kind == frames.PROGRESS:
            told = self._progress.decode(header)
            flight, streamed = self._alive(instance, told.batch_id)
            for row in told.rows:
                self._hand_on(*streamed.owners[row], told.fraction)
            return
        piece = self._piece.decode(header)
        flight, streamed = self._alive(instance, piece.batch_id)
        pieces = scatter_rows(self._signature, piece, payload)
        for row, outputs in zip(piece.rows, pieces, strict=True):
            if kind == frames.ENDED:
                self._end(flight, streamed, row, outputs)
            else:
                self._hand_on(*streamed.owners[row], outputs)

    def _alive(self, instance: Instance, batch_id: int) -> tuple[Flight, Streamed]:
        flight: Flight = instance.flights[batch_id]
        if flight.streamed is None:
            raise ValueError("a piece of a batch of a model that does not stream")
        flight.began = self._clock()
        return flight, flight.streamed

    def _hand_on(self, item: Request, row: int, what: Outputs | float) -> None:
        listener = item.listener
        if listener is None or item.on_done is nobody:
            return
        try:
            if not isinstance(what, Outputs):
                listener.progress(row, what)
                return
            if not listener.begun:
                self._record.begun(self._clock() - item.arrived)
            listener.piece(row, what)
        except Exception:
            log.exception("a piece could not be delivered", extra=fields(model=self._model))

    def _end(self, flight: Flight, streamed: Streamed, row: int, outputs: Outputs) -> None:
        item, place = streamed.owners[row]
        streamed.settled.add(row)
        if item.rows > 1:
            streamed.ends[row] = outputs
            first = row - place
            rows = range(first, first + item.rows)
            if not all(other in streamed.ends for other in rows):
                return
            outputs = _together([streamed.ends.pop(other) for other in rows])
        self._answers.early(flight.batch, item, outputs, self._clock())

    def check_closed(self, flight: Flight) -> None:
        """A batch is over. Raises `ValueError` where somebody still waits for it."""
        if waiting := flight.waiting():
            raise ValueError(f"the batch is over, but {len(waiting)} of its requests have no answer")

    def dismiss(self, instances: Iterable[Instance]) -> None:
        """Requests were canceled or have failed: tell the instances that run them."""
        for instance in instances:
            for batch_id, flight in instance.flights.items():
                streamed: Streamed | None = flight.streamed
                if streamed is None:
                    continue
                left = [
                    row
                    for row, (item, _) in enumerate(streamed.owners)
                    if item.on_done is nobody and row not in streamed.settled
                ]
                if left:
                    streamed.settled.update(left)
                    instance.cancel(batch_id, left)

    def give_up(self, flight: Flight, error: ForebayError) -> None:
        """The batch failed: who has had a piece of its answer cannot be run again, and gets the error."""
        for item in flight.waiting():
            if item.listener is not None and item.listener.begun:
                self._answers.fail(item, error)


def _together(rows: list[Outputs]) -> Outputs:
    names, datatypes = rows[0].names, rows[0].datatypes
    arrays = [stack_rows([row.arrays[index] for row in rows]) for index in range(len(names))]
    return Outputs(names, datatypes, arrays, len(rows))
