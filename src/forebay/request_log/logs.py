"""The logs of all models of one process, from their settings to their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from forebay.core.errors import SetupError
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature
from forebay.request_log.folder import make_model_folder, pieces
from forebay.request_log.redaction import load_redaction
from forebay.request_log.row import Origin
from forebay.request_log.sampler import MOST_BYTES, Sampler
from forebay.request_log.writer import GATHER_S, Destination, Writer
from forebay.telemetry.request_log_metrics import RequestLogMetrics

CLOSE_S: Final = 5.0
"""How long what is queued may be written at the end."""


class RequestLogs:
    """`open` one for each model that wants it, `leave` it when the model goes, `close` all at the end."""

    def __init__(self, *, gather_s: float = GATHER_S, clock: Callable[[], float] = time.time) -> None:
        self.metrics = RequestLogMetrics()
        self._writer = Writer(self.metrics, gather_s=gather_s, clock=clock)
        self._clock = clock

    def open(
        self,
        name: str,
        version: str,
        digest: str,
        signature: Signature,
        labels: Sequence[str],
        settings: ModelSettings,
        data_dir: Path,
    ) -> tuple[Sampler, Destination] | None:
        """The log of a version of a model; None: it wants none. Reads files and runs the user's: not for the event
        loop. Raises `SetupError`."""
        if not settings.request_log:
            return None
        redact = None
        if settings.request_log_redact is not None:
            redact = load_redaction(name, settings.request_log_redact)
        try:
            folder = make_model_folder(data_dir, name)
        except OSError as error:
            raise SetupError(
                f"model {name}: the request log cannot be written below {str(data_dir)!r}: {error.strerror or error}; "
                f"name a folder that can (data_dir), or set {name}.request_log=0"
            ) from None
        self.metrics.held_bytes[name] = sum(piece.size for piece in pieces(folder))
        counts = self.metrics.of(name, version)
        store = self._writer.store(name, folder, settings.request_log_bytes)
        origin = Origin(name, version, digest, "", tuple(labels))
        destination = Destination(self._writer, store, origin, signature, redact, counts)
        sampler = Sampler(
            signature,
            settings.request_log,
            destination,
            counts,
            left_out=settings.request_log_except or (),
            most_bytes=min(MOST_BYTES, settings.request_log_bytes // 2),
            model=name,
            clock=self._clock,
        )
        return sampler, destination

    def leave(self, destination: Destination) -> None:
        """Nothing more comes from there."""
        self._writer.put(destination, None)

    def close(self) -> None:
        """Write what is queued; waits."""
        self._writer.close(CLOSE_S)
