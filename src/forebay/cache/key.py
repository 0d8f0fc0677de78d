"""What makes two requests equal: a digest over all that an answer depends on.

Two requests have one key only where model, version, digest of the model's files, tenant, outputs asked for, parameters,
and each input's name, datatype, shape and bytes are the same. What does not change an answer is no part of it: id,
timeout, priority, the form in which numbers arrive (JSON or binary) and the form in which the answer leaves.
Values are compared by their bytes: -0.0 and 0.0 differ, and so do NaNs of other payloads; that costs a miss, never a
wrong answer.
"""

from __future__ import annotations

import base64
import struct
from hashlib import sha256
from typing import Any, Final

import msgspec

from forebay.core.request import Payload, Request
from forebay.models.signature import Signature

FORMAT: Final = 1
"""Of keys. Another one for whatever changes their meaning: nothing that was kept before is found then."""
_REMEMBERED_HEADS: Final = 1024
_SIZE: Final = struct.Struct("<Q")
_CODES: Final = {"FP32": "f", "FP64": "d"}


class KeyMaker:
    """Keys of the requests of one version of a model, as it is now."""

    __slots__ = ("_encode", "_heads", "_order", "_seed", "_specs")

    def __init__(self, model: str, version: str, digest: str, signature: Signature) -> None:
        self._specs = signature.inputs
        self._order = sorted(range(len(self._specs)), key=lambda index: self._specs[index].name)
        self._encode = msgspec.msgpack.Encoder(order="deterministic").encode
        inputs = [(self._specs[index].name, self._specs[index].datatype) for index in self._order]
        outputs = [(spec.name, spec.datatype) for spec in signature.outputs]
        told = self._encode((FORMAT, model, version, digest, signature.batched, inputs, outputs))
        self._seed = sha256(_SIZE.pack(len(told)) + told)
        self._heads: dict[tuple[Any, ...], bytes] = {}
        """Of requests without parameters. Bounded, since shapes come from clients."""

    def of(self, request: Request, tenant: str) -> bytes:
        """The key of a request. Numbers that came as a list are packed in it, so that this is done once.

        Raises `struct.error` or `OverflowError` for a number that its datatype cannot hold.
        """
        head = self._head(request, tenant)
        key = self._seed.copy()
        if len(self._order) == 1:
            payload = request.inputs[0]
            if type(payload) is list:
                payload = request.inputs[0] = self._packed(payload, 0)
            key.update(head)
            key.update(payload)  # type: ignore[arg-type]
            return key.digest()
        key.update(head)
        for index in self._order:
            payload = request.inputs[index]
            if type(payload) is list:
                payload = request.inputs[index] = self._packed(payload, index)
            key.update(_SIZE.pack(len(payload)))
            key.update(payload)  # type: ignore[arg-type]
        return key.digest()

    def _packed(self, values: list[float], index: int) -> Payload:
        return struct.pack(f"<{len(values)}{_CODES[self._specs[index].datatype]}", *values)

    def _head(self, request: Request, tenant: str) -> bytes:
        """Everything but the values, and how long it is."""
        parameters = request.parameters
        if parameters:
            return self._written(request, tenant)
        known = (tenant, request.rows, request.shapes, request.requested)
        head = self._heads.get(known)
        if head is None:
            head = self._written(request, tenant)
            if len(self._heads) >= _REMEMBERED_HEADS:
                self._heads.clear()
            self._heads[known] = head
        return head

    def _written(self, request: Request, tenant: str) -> bytes:
        shapes = [request.shapes[index] for index in self._order]
        parameters = sorted((request.parameters or {}).items())
        told = self._encode((tenant, request.rows, shapes, request.requested, parameters))
        return _SIZE.pack(len(told)) + told


def entry_id(key: bytes) -> str:
    """A key as callers and operators see it."""
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def key_of_id(id: str) -> bytes | None:
    """The key that an id stands for; None: it is none."""
    try:
        key = base64.b64decode(id.encode() + b"=", altchars=b"-_", validate=True)
    except ValueError:
        return None
    return key if len(key) == sha256().digest_size and entry_id(key) == id else None
