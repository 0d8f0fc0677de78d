"""An instance: one loaded copy of a model in its own process, started as `python -m forebay.engine.child FD ARENA_FD`.

It blocks on its socket, runs one batch at a time and answers in order. It holds no state that cannot be lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np

from forebay.core.errors import ExecutionError, SetupError
from forebay.core.request import payload_array
from forebay.core.tensors import Array, to_buffer
from forebay.engine import frames, measure
from forebay.engine.arena import Arena
from forebay.engine.padding import Padding, multiple_for
from forebay.engine.stream_run import StreamRun
from forebay.models.signature import Signature, TensorSpec
from forebay.models.source import digest_of
from forebay.runtimes.port import Runtime, load_runtime
from forebay.runtimes.python import PythonRuntime
from forebay.runtimes.stream import StreamingRuntime

_RECEIVE_BYTES = 1 << 20
_HEAR_BYTES = 1 << 16
MESSAGE_CHARACTERS = 2000
"""Longest text of an exception that is passed on."""


class InstanceProcess:
    """The loop of one instance."""

    def __init__(self, sock: socket.socket, arena_fd: int) -> None:
        self._sock = sock
        self._arena_fd = arena_fd
        self._reader = frames.FrameReader()
        self._run_header = msgspec.msgpack.Decoder(frames.RunHeader)
        self._frames: deque[tuple[int, bytes, memoryview]] = deque()
        """Received and not dealt with yet."""
        self._runtime: Runtime | None = None
        self._streaming: StreamingRuntime | None = None
        self._signature: Signature | None = None
        self._samples: measure.Samples | None = None
        self._padding: Padding | None = None
        self._arena: Arena | None = None
        self._inline_bytes = 0

    def serve(self) -> None:
        """Until the engine closes its end."""
        while data := self._sock.recv(_RECEIVE_BYTES):
            self._frames.extend(self._reader.feed(data))
            while self._frames:
                kind, header, payload = self._frames.popleft()
                if kind == frames.RUN:
                    self._run(self._run_header.decode(header), payload)
                elif kind == frames.SHOW:
                    self._show(msgspec.msgpack.decode(header, type=frames.ShowHeader))
                elif kind == frames.LOAD and not self._load(msgspec.msgpack.decode(header, type=frames.LoadHeader)):
                    return
                # A CANCEL that is found here came too late: its batch is over.

    def _hear(self, batch_id: int) -> list[int]:
        """The rows of the running batch that were canceled meanwhile. Never waits; what else came is left for later.

        Raises `ConnectionError` where the engine is gone.
        """
        with contextlib.suppress(BlockingIOError):
            data = self._sock.recv(_HEAR_BYTES, socket.MSG_DONTWAIT)
            if not data:
                raise ConnectionResetError("the engine has closed its end")
            self._frames.extend(self._reader.feed(data))
        if not self._frames:
            return []
        rows: list[int] = []
        later: deque[tuple[int, bytes, memoryview]] = deque()
        for frame in self._frames:
            if frame[0] != frames.CANCEL:
                later.append(frame)
                continue
            canceled = msgspec.msgpack.decode(frame[1], type=frames.CancelHeader)
            if canceled.batch_id == batch_id:
                rows += canceled.rows
            elif canceled.batch_id > batch_id:
                later.append(frame)
        self._frames = later
        return rows

    def _load(self, header: frames.LoadHeader) -> bool:
        self._inline_bytes = header.inline_bytes
        try:
            ready = self._ready(header)
        except SetupError as error:
            message = error.message
        except Exception as error:
            message = (
                f"model {header.source.name}: loading {header.source.path} failed: {type(error).__name__}: {error}"
            )
        else:
            self._sock.sendall(frames.pack(frames.READY, ready))
            return True
        self._sock.sendall(frames.pack(frames.LOAD_FAILED, frames.LoadFailedHeader(_sendable(message))))
        return False

    def _ready(self, header: frames.LoadHeader) -> frames.ReadyHeader:
        """Load, check, measure or warm up."""
        source, known = header.source, header.known
        if known is not None and not known.holds():
            known = None
        runtime = load_runtime(source, header.device, header.threads, header.options, known)
        digest = digest_of(source, header.options) if known is None else known.digest
        read = runtime.read if isinstance(runtime, PythonRuntime) else None
        if read is not None:
            digest = read.added_to(digest)
        samples = measure.Samples(runtime)
        batchable, reason = measure.check_batchable(runtime, samples)
        signature = runtime.signature
        if signature.batched and reason.endswith(measure.NO_ROWS):
            signature = measure.unbatched(signature)
        costs: list[tuple[int, int, float]] = []
        measure_s = _at_most(header.measure_s, runtime.settings.get("warm_up_s"))
        if measure_s > 0:
            limit = _at_most(header.max_batch_rows, runtime.settings.get("max_batch_rows")) if batchable else 1
            costs = measure.measure(runtime, samples, int(limit), measure_s)
        else:
            measure.warm_up(runtime, samples, (1, 2, 8) if batchable else (1,))
        self._runtime, self._signature, self._samples = runtime, signature, samples
        if isinstance(runtime, StreamingRuntime) and runtime.streams:
            self._streaming = runtime
        self._arena = Arena(self._arena_fd, header.arena_slot_bytes)
        multiple = 1
        if batchable and self._streaming is None:
            asked = {"pads": header.options.pad, "asked": header.options.pad_multiple}
            multiple = multiple_for(runtime.platform, signature, **asked, own=runtime.settings)
        self._padding = Padding(signature, multiple)
        told = (runtime.platform, signature, dict(runtime.settings), digest, batchable, reason, costs)
        streams = self._streaming is not None
        return frames.ReadyHeader(*told, streams=streams, note=runtime.note, pad_multiple=multiple, read=read)

    def _show(self, header: frames.ShowHeader) -> None:
        """Inputs like those that the model was measured with at load."""
        assert self._samples is not None
        assert self._signature is not None
        shown: list[list[frames.InputPart]] = []
        payloads: list[bytes] = []
        size, reason = 0, ""
        skip = 1 if self._signature.batched else 0
        try:
            for inputs in self._samples.singly(header.most):
                arrays = [inputs[spec.name] for spec in self._signature.inputs]
                buffers = [to_buffer(a, spec.datatype) for a, spec in zip(arrays, self._signature.inputs, strict=True)]
                size += sum(map(len, buffers))
                if shown and size > header.most_bytes:
                    break
                shown.append(
                    [frames.InputPart([a.shape[skip:]], len(b), -1) for a, b in zip(arrays, buffers, strict=True)]
                )
                payloads += buffers
        except Exception as error:  # the examples are the author's
            shown, payloads, reason = [], [], _sendable(f"{type(error).__name__}: {error}")
        self._sock.sendall(frames.pack(frames.SHOWN, frames.ShownHeader(shown, reason), payloads))

    def _run(self, header: frames.RunHeader, payload: memoryview) -> None:
        started = time.perf_counter()
        if self._streaming is not None:
            self._run_stream(self._streaming, header, payload, started)
            return
        assert self._runtime is not None
        assert self._padding is not None
        assert self._signature is not None
        try:
            inputs = self._inputs(header, payload)
            outputs = self._padding.run(self._runtime.run, inputs, header.rows)
            if self._signature.batched:
                check_rows(self._signature, outputs, header.rows)
            # BYTES elements are made here too, so that a value of a wrong type fails its own batch.
            specs = self._signature.outputs
            buffers = [to_buffer(array, spec.datatype) for spec, array in zip(specs, outputs, strict=True)]
            busy_s = time.perf_counter() - started
            answer = self._answer(header.batch_id, busy_s, outputs, buffers)
        except Exception as error:  # the model's, or an answer that cannot be written as its datatype, or is too large
            self._failed(header, started, error)
            return
        self._sock.sendall(answer)

    def _run_stream(
        self, runtime: StreamingRuntime, header: frames.RunHeader, payload: memoryview, started: float
    ) -> None:
        assert self._signature is not None
        try:
            stream = runtime.stream(self._inputs(header, payload), header.rows)
            complete = StreamRun(self._sock, self._signature, stream, header, self._hear).to_end()
        except ConnectionError:
            raise
        except Exception as error:
            self._failed(header, started, error)
            return
        closed = frames.ClosedHeader(header.batch_id, time.perf_counter() - started, complete)
        self._sock.sendall(frames.pack(frames.CLOSED, closed))

    def _failed(self, header: frames.RunHeader, started: float, error: Exception) -> None:
        if isinstance(error, ExecutionError):
            code, message = error.code, error.message
        elif isinstance(error, MemoryError):
            code, message = "out_of_memory", str(error) or "memory ran out"
        else:
            code, message = "model_error", f"{type(error).__name__}: {error}"
        failed = frames.FailedHeader(header.batch_id, time.perf_counter() - started, code, _sendable(message))
        self._sock.sendall(frames.pack(frames.FAILED, failed))

    def _inputs(self, header: frames.RunHeader, payload: memoryview) -> dict[str, Array]:
        assert self._signature is not None
        assert self._arena is not None
        inputs: dict[str, Array] = {}
        position = 0
        for spec, part in zip(self._signature.inputs, header.inputs, strict=True):
            if part.offset >= 0:
                data = self._arena.view[part.offset : part.offset + part.nbytes]
            else:
                data = payload[position : position + part.nbytes]
                position += part.nbytes
            if header.counts and len(part.shapes) > 1:
                inputs[spec.name] = _padded(spec, part, header, data)
            else:
                shape = [header.rows, *part.shapes[0]] if self._signature.batched else part.shapes[0]
                inputs[spec.name] = payload_array(data, spec.datatype, shape)
        return inputs

    def _answer(
        self, batch_id: int, busy_s: float, outputs: Sequence[Array], buffers: Sequence[bytes | memoryview]
    ) -> bytes:
        """The frame of an answer; raises `ExecutionError` (`out_of_memory`) where it is larger than a frame may be."""
        offsets: list[int] | None = None
        if sum(map(len, buffers)) > self._inline_bytes:
            assert self._arena is not None
            offsets = self._arena.place(batch_id, [(buffer,) for buffer in buffers], answer=True)
        parts = [
            frames.OutputPart(list(array.shape), len(buffer), offsets[i] if offsets else -1)
            for i, (array, buffer) in enumerate(zip(outputs, buffers, strict=True))
        ]
        done = frames.DoneHeader(batch_id, busy_s, parts)
        try:
            return frames.pack(frames.DONE, done, () if offsets else buffers)
        except ValueError as error:
            raise ExecutionError(f"the answer of a batch is too large: {error}", code="out_of_memory") from None


def check_rows(signature: Signature, outputs: Sequence[Array], rows: int) -> None:
    """Raises `ExecutionError` (`output_mismatch`) where an output has not one answer for each row."""
    for spec, array in zip(signature.outputs, outputs, strict=True):
        if array.shape[:1] != (rows,):
            raise ExecutionError(
                f"output {spec.name!r} has shape {list(array.shape)} for a batch of {rows} rows", code="output_mismatch"
            )


def _at_most(limit: float, attribute: object) -> float:
    """The operator's setting, or the class attribute where that is a smaller number (whether it may be, others see)."""
    return min(limit, attribute) if isinstance(attribute, int | float) and attribute >= 0 else limit


def _sendable(message: str) -> str:
    """An error message without what a frame cannot carry, and not endless."""
    return message[:MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()


def _padded(spec: TensorSpec, part: frames.InputPart, header: frames.RunHeader, data: memoryview) -> Array:
    """Requests of different row shapes in one array, each filled up with zeros (BYTES: empty) to the longest."""
    longest = tuple(max(axis) for axis in zip(*part.shapes, strict=True))
    itemsize = 0
    array: Array | None = None
    row = position = 0
    for shape, count in zip(part.shapes, header.counts, strict=True):
        elements = int(np.prod((count, *shape), dtype=np.int64))
        if spec.datatype == "BYTES":
            raise ExecutionError(f"input {spec.name!r}: BYTES rows of different shapes do not share a batch")
        if array is None:
            array = np.zeros((header.rows, *longest), dtype=payload_array(b"", spec.datatype, (0,)).dtype)
            itemsize = array.itemsize
        piece = payload_array(data[position : position + elements * itemsize], spec.datatype, (count, *shape))
        array[(slice(row, row + count), *(slice(0, axis) for axis in shape))] = piece
        position += elements * itemsize
        row += count
    assert array is not None
    return array


def die_with_parent(parent: int) -> None:
    """This process ends when the one that started it does (Linux)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """Entry point of the instance process."""
    fd, arena_fd, parent = (int(text) for text in sys.argv[1:4])
    die_with_parent(parent)
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the engine drains first, then closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    with socket.socket(fileno=fd) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        InstanceProcess(sock, arena_fd).serve()


if __name__ == "__main__":
    main()
