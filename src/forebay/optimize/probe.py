"""One loaded candidate in a process of its own, started as `python -m forebay.optimize.probe FD PARENT`.

It loads the artefact as an instance of the server does, answers batches and times them. Whatever the artefact does to
its process, the search goes on.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from pathlib import Path

import msgspec

from forebay.core.errors import ForebayError, SetupError
from forebay.core.tensors import Array
from forebay.engine.child import check_rows, die_with_parent
from forebay.models.signature import Signature
from forebay.models.source import open_source
from forebay.optimize import wire
from forebay.optimize.samples import Row, batch_of
from forebay.runtimes.port import Runtime, load_runtime


class ProbeProcess:
    """The loop of one probe."""

    def __init__(self, sock: socket.socket, runtime: Runtime, rows: list[Row]) -> None:
        self._sock, self._runtime, self._rows = sock, runtime, rows

    def serve(self) -> None:
        """Until the search closes its end."""
        while True:
            try:
                request = wire.receive(self._sock, wire.Answer | wire.Time)
            except wire.ChannelClosedError:
                return
            try:
                reply = self._answer(request) if isinstance(request, wire.Answer) else self._time(request)
            except (ForebayError, ValueError) as error:
                reply = wire.Failed("crashed", f"a batch failed: {error}")
            wire.send(self._sock, reply)

    def _answer(self, request: wire.Answer) -> wire.Answered | wire.Failed:
        batches = [[wire.pack(output) for output in self._run(batch)] for batch in request.batches]
        return wire.Answered(batches, peak_memory_bytes())

    def _time(self, request: wire.Time) -> wire.Timed | wire.Failed:
        seconds: list[float] = []
        for batch in request.batches:
            inputs = batch_of([self._rows[index] for index in batch])
            started = time.perf_counter()
            self._runtime.run(inputs, len(batch))
            seconds.append(time.perf_counter() - started)
        return wire.Timed(seconds, peak_memory_bytes())

    def _run(self, batch: list[int]) -> list[Array]:
        outputs = self._runtime.run(batch_of([self._rows[index] for index in batch]), len(batch))
        check_rows(self._runtime.signature, outputs, len(batch))
        return outputs


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def described(signature: Signature) -> tuple[dict[str, tuple[str, list[int]]], dict[str, tuple[str, list[int]]]]:
    """Inputs and outputs as the protocol's metadata shows them."""
    return (
        {spec.name: (spec.datatype, signature.wire_shape(spec)) for spec in signature.inputs},
        {spec.name: (spec.datatype, signature.wire_shape(spec)) for spec in signature.outputs},
    )


def load(request: wire.Load) -> Runtime:
    """A model as an instance with these settings loads it. Raises `SetupError`."""
    needed, trust = request.served_with, request.trust
    options = msgspec.structs.replace(
        needed.options(), allow_pickle=trust.allow_pickle, trusted_types=trust.trusted_types
    )
    return load_runtime(open_source(request.model), needed.device, request.threads, options)


def main() -> None:
    """Entry point of the probe's process."""
    fd, parent = (int(text) for text in sys.argv[1:3])
    die_with_parent(parent)
    with socket.socket(fileno=fd) as sock:
        request = wire.receive(sock, wire.Load)
        sys.path[:] = [*sys.path, *(entry for entry in request.path if entry not in sys.path)]
        started = time.perf_counter()
        try:
            runtime = load(request)
            rows = wire.read_rows(Path(request.rows))
        except SetupError as error:
            wire.send(sock, wire.Failed("crashed", f"it does not load: {error.message}"))
            return
        refuses = {spec.name: spec.refuses for spec in runtime.signature.inputs if spec.refuses}
        wire.send(sock, wire.Loaded(*described(runtime.signature), time.perf_counter() - started, refuses))
        ProbeProcess(sock, runtime, rows).serve()


if __name__ == "__main__":
    main()
