"""A batch of a model that streams, inside its instance: pieces go out as they come, cancellations are heard between."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping

from forebay.core.errors import ExecutionError
from forebay.core.tensors import Array, to_buffer
from forebay.engine import frames
from forebay.models.signature import Signature
from forebay.runtimes.stream import Ended, Event, Stream, Told

ALIVE_S = 1.0
"""Where nothing has gone out for so long, the next yield is told as a sign of life."""


class StreamRun:
    """One batch, from its generator's start to its end."""

    def __init__(
        self,
        sock: socket.socket,
        signature: Signature,
        stream: Stream,
        header: frames.RunHeader,
        hear: Callable[[int], list[int]],
    ) -> None:
        """`hear(batch_id)`: the batch's rows whose callers have left since it was last called; it never waits."""
        self._sock = sock
        self._datatypes = [spec.datatype for spec in signature.outputs]
        self._stream = stream
        self._id = header.batch_id
        self._listened = frozenset(header.listened)
        self._hear = hear
        self._told_s = time.perf_counter()

    def to_end(self) -> bool:
        """Run it. Returns whether every row has ended; False: it was broken off, since nobody waited any more.

        Raises what the model raises (as `ExecutionError`), and what cannot be written as its datatype.
        """
        stream = self._stream
        try:
            while not (gone := self._hear(self._id)) or stream.cancel(gone):
                events = stream.events()
                if events is None:
                    return True
                self._tell(events)
                if not stream.live:
                    stream.close()
                    return True
        except BaseException:
            with contextlib.suppress(ExecutionError):  # the first error is the one to tell
                stream.close()
            raise
        stream.close()
        return False

    def _tell(self, events: Iterable[Event]) -> None:
        parts = [part for event in events if (part := self._frame(event))]
        now = time.perf_counter()
        if not parts and now - self._told_s > ALIVE_S:
            parts = [frames.pack(frames.PROGRESS, frames.ProgressHeader(self._id, [], 0.0))]
        if parts:
            self._told_s = now
            self._sock.sendall(parts[0] if len(parts) == 1 else b"".join(parts))

    def _frame(self, event: Event) -> bytes:
        """The frame that tells an event; empty where nobody listens to it."""
        if isinstance(event, Ended):
            return self._outputs(frames.ENDED, [event.row], dict(enumerate(event.outputs)))
        rows = [row for row in event.rows if row in self._listened]
        if not rows:
            return b""
        if isinstance(event, Told):
            return frames.pack(frames.PROGRESS, frames.ProgressHeader(self._id, rows, event.fraction))
        outputs: Mapping[int, Array] = event.outputs
        if len(rows) < len(event.rows):
            places = [place for place, row in enumerate(event.rows) if row in self._listened]
            outputs = {index: array[places] for index, array in outputs.items()}
        return self._outputs(frames.PIECE, rows, outputs)

    def _outputs(self, kind: int, rows: list[int], outputs: Mapping[int, Array]) -> bytes:
        buffers = [to_buffer(array, self._datatypes[index]) for index, array in outputs.items()]
        parts = [
            frames.OutputPart(list(array.shape), len(buffer), -1)
            for array, buffer in zip(outputs.values(), buffers, strict=True)
        ]
        return frames.pack(kind, frames.PieceHeader(self._id, rows, list(outputs), parts), buffers)
