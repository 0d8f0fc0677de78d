"""The search's end of its processes: one that holds a candidate, one that makes it, one that exports the source."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from forebay.core.processes import environment_of
from forebay.core.tensors import Array
from forebay.optimize import wire
from forebay.optimize.report import Reason

_STDERR_CHARACTERS = 400
_BATCHES_A_MESSAGE = 64


class CandidateError(Exception):
    """A candidate cannot be judged further; `reason` goes into the report."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


class Child:
    """A process of the search with a socket to it. What it writes to stderr is kept for the report."""

    def __init__(self, module: str, environ: Mapping[str, str] | None = None) -> None:
        """environ: None for our own. Raises `CandidateError` where no process can be started."""
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        command = [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=environ,
                process_group=0,  # Ctrl-C is for us; what it has started ends with it
            )
        except OSError as error:
            ours.close()
            self._stderr.close()
            raise CandidateError("crashed", f"no process could be started: {error}") from None
        finally:
            theirs.close()
        self._sock = ours

    def send(self, message: Any) -> None:
        """One message. A process that has ended is noticed at the next `receive`."""
        with contextlib.suppress(ConnectionError):
            wire.send(self._sock, message)

    def receive(self, kind: Any, timeout_s: float | None) -> Any:
        """The next message. Raises `CandidateError`: `crashed`, `timed_out`, or what the process tells."""
        self._sock.settimeout(timeout_s)
        try:
            message = wire.receive(self._sock, kind | wire.Failed)
        except TimeoutError:
            raise CandidateError("timed_out", f"no answer within {timeout_s:.0f} s") from None
        except wire.ChannelClosedError:
            raise CandidateError("crashed", self._how_it_ended()) from None
        except msgspec.MsgspecError as error:
            raise CandidateError("crashed", f"what its process says cannot be understood: {error}") from None
        if isinstance(message, wire.Failed):
            raise CandidateError(message.reason, message.detail)
        return message

    def close(self) -> None:
        """Ends the process, and those that it has started."""
        self._sock.close()
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "its process closed its socket"
        how = f"its process ended with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"its process was ended by {signal.Signals(-code).name}"
        self._stderr.seek(0)
        said = " ".join(self._stderr.read().decode("utf-8", "replace").split())[-_STDERR_CHARACTERS:]
        return f"{how}: {said}" if said else how


class Probe(Child):
    """A loaded artefact. Batches are lists of indices into the rows that it was given."""

    def __init__(self, load: wire.Load, timeout_s: float) -> None:
        super().__init__("forebay.optimize.probe", environment_of(load.threads))
        try:
            self.send(load)
            self.loaded: wire.Loaded = self.receive(wire.Loaded, timeout_s)
        except BaseException:
            self.close()
            raise
        self._timeout_s = timeout_s
        self.peak_bytes = 0

    def answer(self, batches: Sequence[Sequence[int]]) -> list[list[Array]]:
        """The outputs of each batch. Raises `CandidateError`."""
        answers: list[list[Array]] = []
        for start in range(0, len(batches), _BATCHES_A_MESSAGE):
            self.send(wire.Answer([list(batch) for batch in batches[start : start + _BATCHES_A_MESSAGE]]))
            answered: wire.Answered = self.receive(wire.Answered, self._timeout_s)
            self.peak_bytes = max(self.peak_bytes, answered.peak_bytes)
            answers += [[wire.unpack(tensor) for tensor in batch] for batch in answered.batches]
        return answers

    def time(self, batches: Sequence[Sequence[int]]) -> list[float]:
        """Seconds of each batch. Raises `CandidateError`."""
        self.send(wire.Time([list(batch) for batch in batches]))
        timed: wire.Timed = self.receive(wire.Timed, self._timeout_s)
        self.peak_bytes = max(self.peak_bytes, timed.peak_bytes)
        return timed.seconds


def build(request: wire.Build, timeout_s: float, progress: Callable[[str], None]) -> wire.Made:
    """Make a candidate in a process of its own. Raises `CandidateError`."""
    with Child("forebay.optimize.builder") as child:
        child.send(request)
        while True:
            message = child.receive(wire.Progress | wire.Made, timeout_s)
            if isinstance(message, wire.Made):
                return message
            progress(message.text)


def export(request: wire.Export) -> wire.Exported | wire.Refused:
    """Run a factory and export its module in a process of its own, however long it takes. Raises `CandidateError`."""
    with Child("forebay.optimize.exporter") as child:
        child.send(request)
        answer: wire.Exported | wire.Refused = child.receive(wire.Exported | wire.Refused, None)
        return answer
