"""The engine's end of one instance process: start it, send batches, hear its answers, notice its death."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, cast

import msgspec

from forebay.core.processes import environment_of, signals_blocked
from forebay.engine import frames
from forebay.engine.arena import SLOT_BYTES, Arena
from forebay.engine.assemble import Buffer
from forebay.models.artefact import Known
from forebay.models.source import LoadOptions, ModelSource
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")

_SOCKET_BUFFER_BYTES = 1 << 20
_QUIT_S = 5.0
_LAST_WORDS_S = 0.1
LATER_NICE = 10
"""Of an instance that gives way. On Linux it gets a ninth of what a program of the usual priority gets of a core that
both want."""


class LoadPlan(msgspec.Struct, frozen=True):
    """How an instance is to load its model."""

    source: ModelSource
    device: str
    threads: int
    max_batch_rows: int
    measure_s: float
    inline_bytes: int
    load_timeout_s: float = 300.0
    options: LoadOptions = LoadOptions()
    known: Known | None = None
    """What was found of the model's files, so that no instance reads them for their digests again."""


class InstanceOwner(Protocol):
    """Who is told what an instance says. Called on the event loop."""

    def on_ready(self, instance: Instance, header: frames.ReadyHeader) -> None: ...
    def on_done(self, instance: Instance, header: frames.DoneHeader, payload: memoryview) -> None: ...
    def on_failed(self, instance: Instance, header: frames.FailedHeader) -> None: ...
    def on_streamed(self, instance: Instance, kind: int, header: bytes, payload: memoryview) -> None: ...
    def on_lost(self, instance: Instance, reason: str) -> None: ...


class Instance(asyncio.Protocol):
    """One instance process. `number` is its place in the engine; `flights` are the batches it holds, by id."""

    def __init__(self, number: int, plan: LoadPlan, owner: InstanceOwner) -> None:
        self.number = number
        self.plan = plan
        self.arena = Arena()
        self.flights: dict[int, Any] = {}
        self.ready = False
        self.started_s = time.monotonic()
        self.load_error = ""
        self.killed_for = ""
        """Why the engine killed it, if it did: such a death says nothing about the model."""
        self.killed = False
        """Whether somebody else killed the process (SIGKILL), known once it is lost."""
        self.paused_at = 0.0
        """When it was paused (seconds on the caller's clock); 0: it is not."""
        self._gave_way = False
        self._owner = owner
        self._next_id = 0
        self._reader = frames.FrameReader()
        self._done = msgspec.msgpack.Decoder(frames.DoneHeader)
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._pidfd = -1
        self._shown: asyncio.Future[tuple[frames.ShownHeader, memoryview]] | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 before it was started."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process and send it its model. `on_ready` or `on_lost` follows. Raises `OSError`."""
        ours = self._spawn()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=ours)
        if hasattr(os, "pidfd_open"):
            # Its end of the socket may live on in processes that the model has forked, so that alone tells no death.
            self._pidfd = os.pidfd_open(self.pid)
            loop.add_reader(self._pidfd, self._ended, loop)
        plan = self.plan
        header = frames.LoadHeader(
            plan.source,
            plan.device,
            plan.threads,
            plan.max_batch_rows,
            plan.measure_s,
            SLOT_BYTES,
            plan.inline_bytes,
            plan.options,
            plan.known,
        )
        self._write(frames.pack(frames.LOAD, header))

    def _spawn(self) -> socket.socket:
        """Start the process, which takes milliseconds; returns our end of its socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        command = [sys.executable, "-m", "forebay.engine.child"]
        command += [str(theirs.fileno()), str(self.arena.fd), str(os.getpid())]
        try:
            with theirs, signals_blocked():
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(theirs.fileno(), self.arena.fd),
                    stdin=subprocess.DEVNULL,
                    env=environment_of(self.plan.threads),
                )
        except OSError:
            ours.close()
            raise
        return ours

    def send(
        self,
        flight: Any,
        rows: int,
        counts: list[int],
        parts: list[frames.InputPart],
        groups: Sequence[Sequence[Buffer]],
        listened: Sequence[int] = (),
    ) -> None:
        """Send a batch; `flight` is kept until it is answered or the instance lost. Raises `ValueError` above 2 GiB.

        `listened`: the rows whose callers want pieces.
        """
        batch_id = self._next_id
        payloads: list[Buffer] = []
        offsets: list[int] | None = None
        if sum(part.nbytes for part in parts) > self.plan.inline_bytes:
            offsets = self.arena.place(batch_id, groups, answer=False)
        if offsets is None:
            payloads = [payload for group in groups for payload in group]
        else:
            for part, offset in zip(parts, offsets, strict=True):
                part.offset = offset
        frame = frames.pack(frames.RUN, frames.RunHeader(batch_id, rows, counts, parts, listened), payloads)
        self._next_id += 1
        self.flights[batch_id] = flight
        self._write(frame)

    def cancel(self, batch_id: int, rows: list[int]) -> None:
        """Nobody waits for these rows any more."""
        self._write(frames.pack(frames.CANCEL, frames.CancelHeader(batch_id, rows)))

    async def show(self, most: int, most_bytes: int) -> tuple[frames.ShownHeader, memoryview]:
        """Inputs of some requests of one row, to measure with. Raises `ConnectionError` where it dies over that."""
        self._shown = asyncio.get_running_loop().create_future()
        self._write(frames.pack(frames.SHOW, frames.ShowHeader(most, most_bytes)))
        return await self._shown

    def oldest(self) -> Any:
        """The flight that is running; the other one waits behind it."""
        return next(iter(self.flights.values()), None)

    def _write(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is up."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        """Frames from the instance. One that cannot be understood ends it: what it runs is then run again."""
        try:
            self._receive(data)
        except Exception as error:
            log.exception("an instance's answer cannot be understood", extra=fields(pid=self.pid))
            if self._transport is not None:
                self._transport.abort()
            self.load_error = self.load_error or f"its answer cannot be understood: {type(error).__name__}: {error}"

    def _receive(self, data: bytes) -> None:
        for kind, header, payload in self._reader.feed(data):
            if kind == frames.DONE:
                self._owner.on_done(self, self._done.decode(header), payload)
            elif kind in frames.STREAMED:
                self._owner.on_streamed(self, kind, header, payload)
            elif kind == frames.FAILED:
                self._owner.on_failed(self, msgspec.msgpack.decode(header, type=frames.FailedHeader))
            elif kind == frames.SHOWN and self._shown is not None:
                self._shown.set_result((msgspec.msgpack.decode(header, type=frames.ShownHeader), payload))
            elif kind == frames.READY:
                self.ready = True
                self._owner.on_ready(self, msgspec.msgpack.decode(header, type=frames.ReadyHeader))
            elif kind == frames.LOAD_FAILED:
                self.load_error = msgspec.msgpack.decode(header, type=frames.LoadFailedHeader).message

    def connection_lost(self, exc: Exception | None) -> None:
        """The process died, or was told to quit."""
        self.ready = False
        self._transport = None
        self._forget_process(asyncio.get_running_loop())
        if self._shown is not None and not self._shown.done():
            self._shown.set_exception(ConnectionError("its process died"))
        if self._closing:
            return
        code = self._reap_now()
        self.killed = code == -signal.SIGKILL and not self.killed_for
        ending = f"the instance process {self.pid} {_ending(code)}"
        self._owner.on_lost(self, self.load_error or self.killed_for or ending)
        self.arena.close()

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        self._forget_process(loop)
        # The last answers may still be on their way through the socket, which closes in the usual case.
        loop.call_later(_LAST_WORDS_S, self._hang_up)

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _forget_process(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pidfd >= 0:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _reap_now(self) -> int | None:
        """The exit code. The socket closes a moment before the process is gone, so wait a little; kill what hangs."""
        assert self._process is not None
        try:
            return self._process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self, reason: str) -> None:
        """SIGKILL; `on_lost` follows with this reason."""
        self.killed_for = reason
        if self._process is not None:
            self._process.kill()

    def pause(self, now: float) -> None:
        """SIGSTOP: it stands still until `resume`, whatever it is doing. One that is paused stays so."""
        if not self.paused_at and self._signal(signal.SIGSTOP):
            self.paused_at = now

    def resume(self, now: float) -> float:
        """SIGCONT, if it was paused; returns for how many seconds it was."""
        if not self.paused_at:
            return 0.0
        paused_s, self.paused_at = now - self.paused_at, 0.0
        self._signal(signal.SIGCONT)
        return paused_s

    def give_way(self) -> None:
        """Whatever else wants a core goes first from now on: all its threads get a lower priority, for good."""
        if self._gave_way or self._process is None or self._process.returncode is not None:
            return
        self._gave_way = True
        nice = max(LATER_NICE, os.getpriority(os.PRIO_PROCESS, 0))
        for thread in _threads(self._process.pid):
            with contextlib.suppress(OSError):  # it has just ended
                os.setpriority(os.PRIO_PROCESS, thread, nice)

    def keep_to(self, cores: frozenset[int], of: frozenset[int]) -> None:
        """Those of its threads that may run on the cores `of`, and no others, run on `cores` from now on. A thread that
        the model has pinned stays where it is."""
        if self._process is None or self._process.returncode is not None:
            return
        for _ in range(2):  # a thread that was started meanwhile has what its starter had
            for thread in _threads(self._process.pid):
                with contextlib.suppress(OSError):  # it has just ended, or the system took a core away
                    if os.sched_getaffinity(thread) == of:
                        os.sched_setaffinity(thread, cores)

    def _signal(self, number: signal.Signals) -> bool:
        """Whether there was a process to send it to. One that was reaped has left its id to others."""
        if self._process is None or self._process.returncode is not None:
            return False
        os.kill(self._process.pid, number)
        return True

    async def close(self) -> None:
        """Let the process end by itself (its socket closes), kill it if it does not; `on_lost` does not follow.

        One that is still loading, or runs something that nobody waits for, has nothing to end well.
        """
        self._closing = True
        self.resume(self.paused_at)
        if self._process is not None and (self.flights or not self.ready):
            self._process.kill()
        if self._transport is not None:
            self._transport.close()
        process = self._process
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, _QUIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.arena.close()


def _threads(pid: int) -> list[int]:
    """Ids of a process's threads; none where it has just ended."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}"
