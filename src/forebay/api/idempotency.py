"""The `Idempotency-Key` request header: a request that is sent again is answered with what came of the first.

Source: draft-ietf-httpapi-idempotency-key-header. There the value is a quoted string; most clients send it bare, which
is understood as well. A key is its tenant's own, and is forgotten together with its job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from forebay.api.elements import show
from forebay.core.errors import RequestError

_LONGEST_KEY = 255
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-+\--~]+")
_ESCAPED = re.compile(r"\\(.)")

REPLAYED = (b"idempotent-replayed", b"true")


def read_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The key of a request with these headers; empty: there is none. Raises `RequestError` for a malformed one."""
    given = [value for name, value in headers if name == b"idempotency-key"]
    if not given:
        return ""
    if len(given) > 1:
        raise RequestError("the Idempotency-Key header stands more than once")
    text = given[0].decode("latin-1").strip()
    quoted = _QUOTED.fullmatch(text)
    if quoted is None and _BARE.fullmatch(text) is None:
        raise RequestError(
            f"Idempotency-Key must be a quoted string, or printable ASCII without spaces, quotes and commas, "
            f"got {show(text)}"
        )
    key = text if quoted is None else _ESCAPED.sub(r"\1", quoted[1])
    if not 0 < len(key) <= _LONGEST_KEY:
        raise RequestError(f"Idempotency-Key must have 1 to {_LONGEST_KEY} characters, got {len(key)}")
    return key


def item_key(key: str, position: int) -> str:
    """The key of one job of a batch, apart from every key that a header can hold."""
    return f"{key}\n{position}" if key else ""


def replay_key(id: str) -> str:
    """The key of the replay of a job, apart as well."""
    return f"{id}\nreplay"


def fingerprint(*asked: bytes) -> str:
    """A digest of what was asked: 128 bits as hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in asked:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
