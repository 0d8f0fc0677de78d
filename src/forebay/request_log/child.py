"""The process that writes the log, started as `python -m forebay.request_log.child FD`.

It reads what its server sends and reports what became of it. Whoever redacts slowly, or hangs, holds up nothing else.
As `... check MODEL FILE.py:NAME` it only looks whether that function can be loaded: the server never imports it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from io import BufferedReader
from typing import Any, Final

from forebay.core.errors import SetupError
from forebay.request_log import wire
from forebay.request_log.redaction import load_redaction
from forebay.request_log.writer import Writer
from forebay.telemetry.logs import fields_of

LOWER_PRIORITY: Final = 10
"""The nice value: whoever waits for an answer goes first."""
LAST_S: Final = 10.0
"""How long it may write once its server is gone. A function that hangs would keep it for ever."""
_BUFFER_BYTES: Final = 1 << 20

log = logging.getLogger("forebay.request_log")


class Notes(logging.Handler):
    """Keeps lines for the server's log."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[wire.Note] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line. The texts of errors are not in it: they may be rows."""
        self.kept.append(wire.Note(record.levelno, record.getMessage(), fields_of(record)))


class LogProcess:
    """Its loop."""

    def __init__(self, sock: socket.socket, notes: Notes) -> None:
        self._sock = sock
        self._notes = notes
        self._writer = Writer()

    def serve(self) -> None:
        """Until the server closes its end, or is gone; what came whole is written."""
        with BufferedReader(self._sock.makefile("rb", buffering=0), _BUFFER_BYTES) as file:
            while (item := _next(file)) is not None:
                self._do(*item)
        with contextlib.suppress(OSError):
            self._report()
        self._writer.close()

    def _do(self, kind: int, place: int, body: bytes) -> None:
        try:
            if kind == wire.TAKEN:
                self._writer.take(place, wire.decode_taken(body))
            elif kind == wire.RUN:
                self._writer.take_run(place, wire.decode_run(body))
            elif kind == wire.OPEN:
                self._writer.open(place, wire.decode_opening(body))
            elif kind == wire.LEAVE:
                self._writer.leave(place)
            else:
                self._report()
        except ConnectionError:
            pass  # nobody is there to hear; what follows is still written
        except Exception as error:  # without this process nothing would be written at all
            log.error("the request log failed: %s", type(error).__name__)

    def _report(self) -> None:
        report = self._writer.flush()
        report.notes, self._notes.kept = self._notes.kept, []
        body = wire.encode(report)
        self._sock.sendall(wire.LENGTH.pack(len(body)) + body)


def _next(file: BufferedReader[Any]) -> tuple[int, int, bytes] | None:
    """Kind, place and body of the next item; None at the end, or where the server's own end cut it off."""
    try:
        head = file.read(wire.HEAD.size)
        if len(head) < wire.HEAD.size:
            return None
        kind, place, length = wire.HEAD.unpack(head)
        body = file.read(length)
    except ConnectionError:
        return None
    return (kind, place, body) if len(body) == length else None


def end_after(sock: socket.socket, grace_s: float) -> None:
    """End this process so long after its server's end, whatever it is doing."""
    poll = select.poll()
    poll.register(sock, 0)  # a hangup is told of unasked
    poll.poll()
    threading.Event().wait(grace_s)
    os._exit(1)


def check(model: str, text: str) -> int:
    """The exit code; what is wrong with the function is the last line, after whatever its module prints."""
    try:
        load_redaction(model, text)
    except SetupError as error:
        print(f"\n{json.dumps(str(error))}", flush=True)
        return wire.REFUSED
    return 0


def main() -> None:
    """Entry point of the process."""
    if sys.argv[1] == "check":
        sys.exit(check(*sys.argv[2:4]))
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the server drains first, then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    os.nice(LOWER_PRIORITY)
    notes = Notes()
    log.addHandler(notes)
    log.propagate = False
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        threading.Thread(target=end_after, args=(sock, LAST_S), daemon=True).start()
        LogProcess(sock, notes).serve()


if __name__ == "__main__":
    main()
