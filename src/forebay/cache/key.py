"""What makes two requests equal: all that an answer depends on, as one text of bytes, or its digest where it is long.

Two requests have one key only where model, version, digest of the model's files, tenant, outputs asked for, parameters,
and each input's name, datatype, shape and bytes are the same. What does not change an answer is no part of it: id,
timeout, priority, the form in which numbers arrive (JSON or binary) and the form in which the answer leaves.
Values are compared by their bytes: -0.0 and 0.0 differ, and so do NaNs of other payloads; that costs a miss, never a
wrong answer.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import msgspec

from forebay.core.request import Payload, Request
from forebay.models.signature import Signature

FORMAT: Final = 2
"""Of keys. Another one for whatever changes their meaning: nothing that was kept before is found then."""
_REMEMBERED_HEADS: Final = 1024
_SIZE: Final = struct.Struct("<Q")
_CODES: Final = {"FP32": "f", "FP64": "d"}
LONGEST_KEY_BYTES: Final = 512
"""Of a key that is no digest. A digest has 32 bytes, and a key that is none has always more."""


class KeyMaker:
    """Keys of the requests of one version of a model, as it is now."""

    __slots__ = (
        "_encode",
        "_head",
        "_heads",
        "_order",
        "_pack",
        "_packers",
        "_rows",
        "_seed",
        "_shapes",
        "_specs",
        "_tenant",
    )

    def __init__(self, model: str, version: str, digest: str, signature: Signature) -> None:
        self._specs = signature.inputs
        self._order = sorted(range(len(self._specs)), key=lambda index: self._specs[index].name)
        self._encode = msgspec.msgpack.Encoder(order="deterministic").encode
        inputs = [(self._specs[index].name, self._specs[index].datatype) for index in self._order]
        outputs = [(spec.name, spec.datatype) for spec in signature.outputs]
        told = self._encode((FORMAT, model, version, digest, signature.batched, inputs, outputs))
        self._seed = sha256(told).digest()
        self._packers: dict[tuple[int, int], Callable[..., bytes]] = {}
        self._heads: dict[tuple[Any, ...], bytes] = {}
        """Of requests without parameters. Both are bounded, since shapes come from clients."""
        self._shapes: Any = None
        self._rows = 0
        self._tenant = ""
        self._head = b""
        self._pack: Callable[..., bytes] | None = None
        """The shapes, rows and tenant of the last request, mostly those of the next, its head, and where its key is
        that and the numbers of its only input: what packs them."""

    def of(self, request: Request, tenant: str) -> bytes:
        """The key of a request. Numbers that came as a list are packed in it, so that this is done once.

        Raises `struct.error` or `OverflowError` for a number that its datatype cannot hold.
        """
        usual = (
            request.shapes is self._shapes
            and request.rows == self._rows
            and tenant == self._tenant
            and request.requested is None
            and not request.parameters
        )
        head = self._head if usual else self._head_of(request, tenant)
        inputs = request.inputs
        if len(inputs) == 1:
            payload = inputs[0]
            if type(payload) is list:
                if usual and self._pack is not None:
                    inputs[0] = packed = self._pack(*payload)
                    return head + packed
                pack = self._packer(len(payload), 0)
                payload = inputs[0] = pack(*payload)
                if len(payload) <= LONGEST_KEY_BYTES and request.shapes is self._shapes and request.rows == self._rows:
                    self._pack = pack
            if len(payload) <= LONGEST_KEY_BYTES:
                return b"%b%b" % (head, payload)  # type: ignore[str-format]
            return _digest(head, payload)
        pieces = [head]
        for index in self._order:
            payload = inputs[index]
            if type(payload) is list:
                payload = inputs[index] = self._packed(payload, index)
            pieces += (_SIZE.pack(len(payload)), payload)  # type: ignore[arg-type]
        return b"".join(pieces) if sum(map(len, pieces)) <= LONGEST_KEY_BYTES else _digest(*pieces)

    def usual(self, request: Request) -> bytes | None:
        """`of` where nobody's tenant is meant and the request is like the last one but for the numbers of its only
        input: in one step, since most are. None: it is not."""
        pack = self._pack
        if (
            pack is None
            or request.shapes is not self._shapes
            or request.rows != self._rows
            or request.parameters
            or request.requested is not None
            or self._tenant
        ):
            return None
        inputs = request.inputs
        values = inputs[0]
        if type(values) is not list:
            return None
        inputs[0] = packed = pack(*values)
        return self._head + packed

    def all_but_values(self, request: Request, tenant: str) -> bytes:
        """What of a key does not depend on the values of the inputs."""
        return self._head_of(request, tenant)

    def _packed(self, values: list[float], index: int) -> bytes:
        return self._packer(len(values), index)(*values)

    def _packer(self, count: int, index: int) -> Callable[..., bytes]:
        known = (count, index)
        pack = self._packers.get(known)
        if pack is None:
            if len(self._packers) >= _REMEMBERED_HEADS:
                self._packers.clear()
            pack = struct.Struct(f"<{count}{_CODES[self._specs[index].datatype]}").pack
            self._packers[known] = pack
        return pack

    def _head_of(self, request: Request, tenant: str) -> bytes:
        """The digest of everything but the values: a short key is soon compared, and there are many."""
        if request.parameters:
            return self._written(request, tenant)
        known = (tenant, request.rows, request.shapes, request.requested)
        head = self._heads.get(known)
        if head is None:
            head = self._written(request, tenant)
            if len(self._heads) >= _REMEMBERED_HEADS:
                self._heads.clear()
            self._heads[known] = head
        if request.requested is None:
            self._shapes, self._rows, self._tenant, self._head = request.shapes, request.rows, tenant, head
            self._pack = None
        return head

    def _written(self, request: Request, tenant: str) -> bytes:
        shapes = [request.shapes[index] for index in self._order]
        parameters = sorted((request.parameters or {}).items())
        told = self._encode((tenant, request.rows, shapes, request.requested, parameters))
        return _digest(self._seed, told)


def _digest(*pieces: Payload) -> bytes:
    found = sha256()
    for piece in pieces:
        found.update(piece)  # type: ignore[arg-type]
    return found.digest()


def digest_of(key: bytes) -> bytes:
    """A key by which an answer is known beyond this process; always of one size."""
    return sha256(key).digest()


def entry_id(digest: bytes) -> str:
    """The digest of a key as callers and operators see it."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def digest_of_id(id: str) -> bytes | None:
    """The digest that an id stands for; None: it is no id."""
    try:
        digest = base64.b64decode(id.encode() + b"=", altchars=b"-_", validate=True)
    except ValueError:
        return None
    return digest if len(digest) == sha256().digest_size and entry_id(digest) == id else None
