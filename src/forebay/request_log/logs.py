"""The logs of all models of one process, from their settings to their end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from forebay.core.errors import SetupError
from forebay.core.processes import environment_of
from forebay.core.settings import ModelSettings
from forebay.models.signature import Signature
from forebay.request_log import wire
from forebay.request_log.folder import make_model_folder, pieces
from forebay.request_log.redaction import refused
from forebay.request_log.row import Origin
from forebay.request_log.sampler import MOST_BYTES, Sampler
from forebay.request_log.spool import GATHER_S, Outlet, Spool
from forebay.request_log.wire import Opening
from forebay.telemetry.request_log_metrics import RequestLogMetrics

CLOSE_S: Final = 5.0
"""How long what is queued may be written at the end."""
CHECK_S: Final = 60.0
"""How long the module of a redaction function may take to load."""


class RequestLogs:
    """`open` one for each model that wants it, `leave` it when the model goes, `close` all at the end."""

    def __init__(self, *, gather_s: float = GATHER_S, clock: Callable[[], float] = time.time) -> None:
        self.metrics = RequestLogMetrics()
        self.spool = Spool(self.metrics, gather_s=gather_s)
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
    ) -> tuple[Sampler, Outlet] | None:
        """The log of a version of a model; None: it wants none. Reads files and runs the user's: not for the event
        loop. Raises `SetupError`."""
        if not settings.request_log:
            return None
        if settings.request_log_redact is not None:
            _check_redaction(name, settings.request_log_redact)
        try:
            folder = make_model_folder(data_dir, name)
        except OSError as error:
            raise SetupError(
                f"model {name}: the request log cannot be written below {str(data_dir)!r}: {error.strerror or error}; "
                f"name a folder that can (data_dir), or set {name}.request_log=0"
            ) from None
        self.metrics.held_bytes[name] = sum(piece.size for piece in pieces(folder))
        counts = self.metrics.of(name, version)
        origin = Origin(name, version, digest, "", tuple(labels))
        opening = Opening(origin, signature, str(folder), settings.request_log_bytes, settings.request_log_redact)
        outlet = self.spool.outlet(opening, counts)
        sampler = Sampler(
            signature,
            settings.request_log,
            outlet,
            counts,
            left_out=settings.request_log_except or (),
            most_bytes=min(MOST_BYTES, settings.request_log_bytes // 2),
            model=name,
            clock=self._clock,
        )
        return sampler, outlet

    def leave(self, outlet: Outlet) -> None:
        """Nothing more comes from there. On the event loop."""
        self.spool.leave(outlet)

    async def close(self) -> None:
        """Write what is queued."""
        await self.spool.close(CLOSE_S)


def _check_redaction(model: str, text: str) -> None:
    """Whether the user's function can be loaded, where it is to be: in another process. Raises `SetupError`."""
    command = [sys.executable, "-m", wire.MODULE, "check", model, text]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment_of(1), timeout=CHECK_S
        )
    except subprocess.TimeoutExpired:
        why, mend = f"it was not loaded within {CHECK_S:g} s", "do at the first call what takes long"
    else:
        if done.returncode == wire.REFUSED and (told := done.stdout.rstrip().rpartition("\n")[2]):
            raise SetupError(str(json.loads(told)))
        if not done.returncode:
            return
        why, mend = f"its module ended the process with exit code {done.returncode}", "mend that"
    raise refused(model, text, why, mend)
