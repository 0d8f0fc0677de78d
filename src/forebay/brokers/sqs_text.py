"""Packs as text, since that is all that SQS carries."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

from forebay.brokers.packs import PackError

PLAIN: Final = "fb1."
PRESSED: Final = "fb1z."
"""Compressed, and in an alphabet that takes a quarter more than bytes do, not a third; for what is else too large."""
_MOST_BYTES: Final = 16 << 20
"""Nobody packs more."""


def written(pack: bytes, most_bytes: int) -> str | None:
    """The body of a message. None: it has more than so many bytes however it is written."""
    if len(PLAIN) + 4 * -(-len(pack) // 3) <= most_bytes:
        return PLAIN + base64.b64encode(pack).decode()
    if len(pack) > _MOST_BYTES:
        return None
    pressed = PRESSED + base64.b85encode(zlib.compress(pack, 1)).decode()
    return pressed if len(pressed) <= most_bytes else None


def read(text: str) -> bytes:
    """What `written` wrote. Raises `PackError`."""
    try:
        if text.startswith(PLAIN):
            return base64.b64decode(text[len(PLAIN) :], validate=True)
        if text.startswith(PRESSED):
            pressing = zlib.decompressobj()
            found = pressing.decompress(base64.b85decode(text[len(PRESSED) :]), _MOST_BYTES)
            if pressing.eof:
                return found
    except (binascii.Error, ValueError, zlib.error) as error:
        raise PackError(str(error)) from None
    raise PackError("it is not written as Forebay writes")
