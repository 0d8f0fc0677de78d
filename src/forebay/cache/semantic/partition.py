"""Which kept answers may serve a text at all: those of its partition."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

_FORMAT: Final = 1


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """All that must be equal before two texts are even compared. Each partition is an index of its own, never a filter
    over a common one, so that no search can reach another tenant's texts.

    `artefact`: digest and version of the model. `parameters`: those that change outputs, defaults filled in, the
    requested outputs, and every input that is not the text. `embedder`: digest of the model that makes the vectors.
    """

    model: str
    artefact: str
    parameters: bytes
    system_prompt: str
    tenant: str
    embedder: str
    locale: str

    def key(self) -> str:
        """A name for the partition: a digest that no two have in common, in which no secret can be read."""
        content = msgspec.msgpack.encode((_FORMAT, *msgspec.structs.astuple(self)))
        return hashlib.blake2b(content, digest_size=20).hexdigest()
