"""What was taken, on its way to the process that writes it: the serving process's side, all on its event loop.

Nothing waits for that process. What it has not written yet is bounded in bytes; beyond that rows are counted and
dropped. One that ends is started anew, and what it had not reported is counted as lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Final, cast

import msgspec

from forebay.core.processes import environment_of, signals_blocked
from forebay.request_log import wire
from forebay.request_log.wire import Opening, Report, Run, Taken
from forebay.telemetry.logs import fields
from forebay.telemetry.request_log_metrics import RequestLogCounts, RequestLogMetrics

log = logging.getLogger("forebay.request_log")

MOST_QUEUED_BYTES: Final = 32 << 20
GATHER_S: Final = 1.0
"""From the first that is taken until it is sent: one call to the system for all, and the process wakes once."""
AGAIN_S: Final = 1.0
"""Before a process that ended is started anew; twice as long each time that it ends without a report."""
MOST_AGAIN_S: Final = 60.0


class Outlet:
    """The log of one version of a model: a `Target` of its sampler."""

    __slots__ = ("counts", "opening", "place", "spool", "told")

    def __init__(self, spool: Spool, opening: Opening, counts: RequestLogCounts) -> None:
        self.spool = spool
        self.opening = opening
        self.counts = counts
        self.place = 0
        """By which the process knows it: another one each time that it is opened."""
        self.told = 0
        """Which of the processes knows it; 0: none."""

    def has_room(self, nbytes: int) -> bool:
        """See `Target`."""
        return self.spool.has_room(nbytes)

    def put(self, taken: Taken | Run) -> None:
        """See `Target`."""
        self.spool.put(self, taken)


class _Flight(msgspec.Struct, eq=False):
    """What is sent together and was not reported of yet. `rows`: by place; `gone`: places of which no more comes."""

    nbytes: int = 0
    rows: dict[int, int] = {}
    gone: list[int] = []


class Spool(asyncio.Protocol):
    """The process and what is on its way there, for all models of a serving process."""

    def __init__(
        self,
        metrics: RequestLogMetrics,
        *,
        gather_s: float = GATHER_S,
    ) -> None:
        self._metrics = metrics
        self._most_queued_bytes = MOST_QUEUED_BYTES
        self._gather_s = gather_s
        self._again_s = self._first_again_s = AGAIN_S
        self._places = 0
        self._outlets: dict[int, Outlet] = {}
        """By place: those that the process knows and may report of."""
        self._number = 1
        """Of the process that is there, or is to come."""
        self._items: list[bytes] = []
        self._next = _Flight()
        """What `_items` are."""
        self._flights: deque[_Flight] = deque()
        self.queued_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._closing = False
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int:
        """Of the process that writes; 0: there is none."""
        return self._process.pid if self._process is not None else 0

    def outlet(self, opening: Opening, counts: RequestLogCounts) -> Outlet:
        """A log, of which nobody needs to know before its first row. May be called on any thread."""
        return Outlet(self, opening, counts)

    # -- out ----------------------------------------------------------------------------------------------------------

    def has_room(self, nbytes: int) -> bool:
        """Whether one of so many bytes can be queued."""
        return self.queued_bytes + nbytes <= self._most_queued_bytes and not self._closing

    def put(self, outlet: Outlet, taken: Taken | Run) -> None:
        """Have it written, later. Raises what cannot be encoded raises."""
        body = wire.encode(taken)
        self._introduce(outlet)
        self._say(wire.RUN if type(taken) is Run else wire.TAKEN, outlet.place, body)
        rows = self._next.rows
        rows[outlet.place] = rows.get(outlet.place, 0) + taken.rows

    def leave(self, outlet: Outlet) -> None:
        """Nothing more comes of it, for now."""
        if outlet.told == self._number:
            outlet.told = 0
            self._say(wire.LEAVE, outlet.place, b"")
            self._next.gone.append(outlet.place)

    def _introduce(self, outlet: Outlet) -> None:
        if outlet.told != self._number:
            self._places = outlet.place = self._places + 1
            self._outlets[outlet.place] = outlet
            outlet.told = self._number
            self._say(wire.OPEN, outlet.place, wire.encode(outlet.opening))

    def _say(self, kind: int, place: int, body: bytes) -> None:
        items = self._items
        items.append(wire.HEAD.pack(kind, place, len(body)))
        items.append(body)
        nbytes = wire.HEAD.size + len(body)
        self._next.nbytes += nbytes
        self.queued_bytes += nbytes
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._gather_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        """Send what is there, to a process that is started for it where there is none."""
        if not self._items:
            return
        if self._transport is None:
            if self._starting is None:
                self._starting = asyncio.get_running_loop().create_task(self._start())
            return
        self._items.append(wire.HEAD.pack(wire.END, 0, 0))
        self._flights.append(self._next)
        data, self._items = b"".join(self._items), []
        self._next = _Flight()
        self._transport.write(data)

    # -- the process --------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            ours = await asyncio.to_thread(self._spawn)
            ours.setblocking(False)
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        except OSError as error:
            log.error("the process that writes the request log cannot be started: %s", error.strerror or error)
            self._try_later()
        finally:
            self._starting = None
        self._flush()

    def _spawn(self) -> socket.socket:
        """Start the process, which takes milliseconds; returns our end of its socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", wire.MODULE, str(theirs.fileno())]
        try:
            with theirs, signals_blocked():
                self._process = subprocess.Popen(
                    command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env=environment_of(1)
                )
        except OSError:
            ours.close()
            raise
        return ours

    def _try_later(self) -> None:
        self._not_before = time.monotonic() + self._again_s
        self._again_s = min(2 * self._again_s, MOST_AGAIN_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's
        self._ended.clear()

    def data_received(self, data: bytes) -> None:
        """Reports."""
        received, size = self._received, wire.LENGTH.size
        received += data
        while len(received) >= size:
            (length,) = wire.LENGTH.unpack_from(received)
            if len(received) < size + length:
                return
            body = bytes(received[size : size + length])
            del received[: size + length]
            self._on_report(wire.decode_report(body))

    def _on_report(self, report: Report) -> None:
        for counted in report.counted:
            counts = self._outlets[counted.place].counts
            counts.written += counted.written
            counts.written_bytes += counted.written_bytes
            for reason, rows in counted.dropped.items():
                counts.drop(reason, rows)
        self._metrics.held_bytes.update(report.held_bytes)
        for note in report.notes:
            log.log(note.level, "%s", note.text, extra=fields(**note.fields))
        self._again_s = self._first_again_s
        if self._flights:  # the last report of all answers none
            self._land(self._flights.popleft())

    def _land(self, flight: _Flight) -> None:
        self.queued_bytes -= flight.nbytes
        for place in flight.gone:
            self._outlets.pop(place, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended, as it was told to or not. What it had and did not report of counts as lost."""
        self._transport, process, self._process = None, self._process, None
        self._received.clear()
        lost = 0
        for flight in self._flights:
            for place, rows in flight.rows.items():
                self._outlets[place].counts.drop("stopped", rows)
                lost += rows
            self._land(flight)
        self._flights.clear()
        code = None if process is None else _reap(process)
        if not self._closing:
            log.error(
                "the process that writes the request log has ended: what it had, at most %d rows, is not in it; "
                "another one is started",
                lost,
                extra=None if code is None else fields(exit_code=code),
            )
            self._begin_anew()
            self._try_later()
            self._flush()
        self._ended.set()

    def _begin_anew(self) -> None:
        """The next process knows no log: those that what waits is about are opened in front of it."""
        waiting = self._next
        about = {place: self._outlets[place] for place in (*waiting.rows, *waiting.gone)}
        self._outlets = about
        opened = []
        for place, outlet in about.items():
            if outlet.told == self._number and outlet.place == place:
                outlet.told += 1
            body = wire.encode(outlet.opening)
            opened += [wire.HEAD.pack(wire.OPEN, place, len(body)), body]
        self._items[:0] = opened
        self._number += 1

    # -- the end ------------------------------------------------------------------------------------------------------

    async def close(self, grace_s: float) -> None:
        """Write what is queued, at most so long. Nothing is taken from now on."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            async with asyncio.timeout(grace_s):
                self._not_before = 0.0
                self._flush()
                while self._starting is not None:
                    await asyncio.wait([self._starting])
                if self._transport is not None:
                    self._transport.write_eof()
                    await self._ended.wait()
        except TimeoutError:
            left = sum(sum(flight.rows.values()) for flight in (*self._flights, self._next))
            log.warning("the request log was not done in %g s: %d rows are not in it", grace_s, left)
        if self._starting is not None:
            self._starting.cancel()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        if self._transport is not None:
            self._transport.abort()


def _reap(process: subprocess.Popen[bytes]) -> int:
    """The exit code of one that has closed its end, which it does a moment before it is gone."""
    try:
        return process.wait(0.05)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
