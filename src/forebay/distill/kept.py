"""A teacher's answers on disk, by the digest of the teacher and of the row: nothing is asked twice.

    FOLDER/DIGEST/TIME-PID-NUMBER.rows

Files are those of the request log: each written by one process, only ever appended to, every answer with a checksum,
readable up to the last whole one however that process ended. A run that was killed goes on where it was.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import NUMPY_TYPES, Array, as_bytes, bytes_array, datatype_of
from forebay.request_log.row import Origin, Row, body_of, encode
from forebay.request_log.segment import LONGEST_BODY, SUFFIX, Damage, Segment, framed, opening

Answers = Mapping[str, Array]
"""Output name to the value of one row, without the batch axis."""


class KeptAnswers:
    """The answers of one teacher. A file is begun with the first answer that is added."""

    def __init__(self, folder: Path, name: str, digest: str) -> None:
        """folder: of all teachers."""
        self._folder = folder / digest[:32]
        self._origin = Origin(name, "", digest, "")
        self._file: BinaryIO | None = None
        self.damage = Damage()

    def load(self) -> dict[bytes, Answers]:
        """What is there. Answers that are not whole, or whose checksum is wrong, are passed over."""
        found: dict[bytes, Answers] = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            for origin, key, row in Segment(path, self.damage).rows():
                if origin.digest == self._origin.digest:
                    found[key] = row.outputs
        return found

    def add(self, key: bytes, outputs: Answers) -> None:
        """Write an answer down; it is with the system when this returns. Raises `SetupError`."""
        row = Row(time.time(), {}, {name: _storable(value) for name, value in outputs.items()})
        body = encode(body_of(row))
        if len(body) > LONGEST_BODY:
            return  # it is asked again the next time
        try:
            if self._file is None:
                self._file = self._begun()
            self._file.write(framed(key, body))
        except OSError as error:
            raise SetupError(
                f"the teacher's answers cannot be kept in {self._folder}: {error.strerror or error}; make room, or "
                "name another --data-dir"
            ) from None

    def close(self) -> None:
        """Done with adding, for now."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begun(self) -> BinaryIO:
        # What a model answers tells what it was asked.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{int(time.time() * 1000):014d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        fd = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        file = open(fd, "wb", buffering=0)  # noqa: SIM115 - closed by `close`
        file.write(opening(self._origin))
        return file


def _storable(value: Array) -> Array:
    """In a type that the protocol has."""
    if value.dtype.kind in "OSU":
        return bytes_array([as_bytes(item) for item in value.reshape(-1).tolist()], value.shape)
    return np.asarray(value, NUMPY_TYPES[datatype_of(value)])
