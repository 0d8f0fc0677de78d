"""A request and its answer as they travel between a process without engines and a worker: a small header, raw tensors.

Each is the length of its header, four bytes, the header in msgpack, and the buffers in the order of the header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from forebay.core.errors import (
    AdmissionError,
    DeadlineExceeded,
    DependencyError,
    ExecutionError,
    ForebayError,
    RequestError,
    Stage,
)
from forebay.core.request import Outputs, Request, output_array, output_buffer
from forebay.core.tensors import NUMPY_TYPES, Array, bytes_array, element_count, unpack_bytes
from forebay.engine.assemble import Buffer, buffers_of
from forebay.models.signature import Signature

_LENGTH: Final = struct.Struct("<I")
_PLAIN_KINDS: Final = (RequestError, ExecutionError)


class CallHeader(msgspec.Struct, array_like=True, omit_defaults=True):
    """What a request says beside its tensors. `left_ms`: until its deadline, from when it was sent."""

    left_ms: float
    shapes: tuple[tuple[int, ...], ...]
    sizes: list[int]
    rows: int
    nbytes: int
    priority: int = 0
    explain: bool = False
    requested: tuple[int, ...] | None = None
    parameters: dict[str, Any] | None = None
    tenant: str = ""


class ErrorRecord(msgspec.Struct, array_like=True, omit_defaults=True):
    """An error, in few words: never a pickled exception."""

    code: str
    message: str
    stage: str = ""
    retry_after_s: float = 0.0


class AnswerHeader(msgspec.Struct, array_like=True, omit_defaults=True):
    """An error, or the outputs that were asked for: of each its place in the signature, shape and bytes."""

    error: ErrorRecord | None = None
    outputs: list[tuple[int, tuple[int, ...], int]] = []
    batch_rows: int = 0
    queue_s: float = 0.0
    dispatch_reason: str = ""
    padding_waste: float = 0.0
    digest: str = ""
    """Of the files of the model that ran."""
    answered_by: str = ""
    """Who of a cascade; empty: there is none."""


class CallCodec:
    """Calls of models of one signature."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_call = msgspec.msgpack.Decoder(CallHeader).decode
        self._decode_answer = msgspec.msgpack.Decoder(AnswerHeader).decode

    def pack(self, request: Request, left_s: float) -> bytes:
        """A request. Raises `ExecutionError` where a value is too large for its datatype."""
        try:
            buffers = [
                b"".join(buffers_of([payload], spec.datatype))
                for payload, spec in zip(request.inputs, self._signature.inputs, strict=True)
            ]
        except (OverflowError, struct.error) as error:
            raise ExecutionError(f"the request could not be sent: {error}", code="model_error") from None
        header = CallHeader(
            left_s * 1e3,
            request.shapes,
            [len(buffer) for buffer in buffers],
            request.rows,
            request.nbytes,
            request.priority,
            request.explain,
            request.requested,
            request.parameters,
            request.tenant,
        )
        return self._framed(header, buffers)

    def unpack(self, body: bytes, left_s: float, now: float, on_done: Callable[[Request], None]) -> Request:
        """The request of a call that is waited for so long from `now`."""
        view, at = _opened(body)
        header = self._decode_call(view[_LENGTH.size : at])
        inputs: list[Any] = []
        for size in header.sizes:
            inputs.append(view[at : at + size])
            at += size
        return Request(
            inputs,
            header.shapes,
            header.rows,
            nbytes=header.nbytes,
            deadline=now + left_s,
            arrived=now - max(0.0, header.left_ms / 1e3 - left_s),
            on_done=on_done,
            priority=header.priority,
            parameters=header.parameters,
            requested=header.requested,
            explain=header.explain,
            tenant=header.tenant,
        )

    def pack_answer(self, request: Request, digest: str) -> bytes:
        """The answer of a request that is done; called within `on_done`. `digest`: the engine's when it was asked."""
        if request.error is not None:
            return self.pack_error(request.error)
        batched = self._signature.batched
        wanted = range(len(self._signature.outputs)) if request.requested is None else sorted(set(request.requested))
        buffers = [output_buffer(request, index, batched) for index in wanted]
        header = AnswerHeader(
            None,
            [
                (index, output_array(request, index, batched).shape, len(buffer))
                for index, buffer in zip(wanted, buffers, strict=True)
            ],
            request.batch_rows,
            request.queue_s,
            request.dispatch_reason,
            request.padding_waste,
            request.ran_on or digest,
            request.answered_by,
        )
        return self._framed(header, buffers)

    def pack_error(self, error: ForebayError) -> bytes:
        """An answer that is an error."""
        stage = error.stage if isinstance(error, DeadlineExceeded) else ""
        retry_after_s = error.retry_after_s if isinstance(error, AdmissionError | DependencyError) else 0.0
        return self._framed(AnswerHeader(ErrorRecord(error.code, error.message, stage, retry_after_s)), [])

    def fill(self, request: Request, body: bytes) -> None:
        """Give a request its answer: `outputs` or `error`. Raises `ValueError` or `MsgspecError` for what is none."""
        view, at = _opened(body)
        header = self._decode_answer(view[_LENGTH.size : at])
        if header.error is not None:
            request.error = error_of(header.error)
            return
        specs = self._signature.outputs
        arrays: list[Array] = [np.empty(0)] * len(specs)  # those that were not asked for are not looked at
        for index, shape, size in header.outputs:
            arrays[index] = _array(specs[index].datatype, shape, view[at : at + size])
            at += size
        request.outputs = Outputs(
            [spec.name for spec in specs], [spec.datatype for spec in specs], arrays, request.rows
        )  # fmt: skip
        request.row_start = 0
        request.ran_on, request.answered_by = header.digest, header.answered_by
        request.batch_rows, request.queue_s = header.batch_rows, header.queue_s
        request.dispatch_reason, request.padding_waste = header.dispatch_reason, header.padding_waste

    def _framed(self, header: msgspec.Struct, buffers: Sequence[Buffer]) -> bytes:
        head = self._encode(header)
        return b"".join((_LENGTH.pack(len(head)), head, *buffers))


def error_of(record: ErrorRecord) -> ForebayError:
    """The error that was told of."""
    code, message = record.code, record.message
    if code in DeadlineExceeded.codes():
        stage: Stage = "executing" if record.stage == "executing" else "queued"
        return DeadlineExceeded(message, stage=stage)
    if code in AdmissionError.codes():
        return AdmissionError(message, code=code, retry_after_s=record.retry_after_s)
    if code in DependencyError.codes():
        return DependencyError(message, code=code, retry_after_s=record.retry_after_s)
    for kind in _PLAIN_KINDS:
        if code in kind.codes():
            return kind(message, code=code)
    return ForebayError(message)


def _opened(body: bytes) -> tuple[memoryview, int]:
    """The body, and where its buffers begin."""
    return memoryview(body), _LENGTH.size + int(_LENGTH.unpack_from(body)[0])


def _array(datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    if datatype == "BYTES":
        return bytes_array(unpack_bytes(data, element_count(shape)), shape)
    return np.frombuffer(data, NUMPY_TYPES[datatype]).reshape(shape)
