"""What may stand in a request's headers, checked before it is sent: errors of the library that sends would show it."""

from __future__ import annotations

import re

from forebay.core.errors import SetupError

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_KEY = re.compile(r"[\x21-\x7e]+")


def bearer(api_key: str) -> str:
    """The value of `Authorization` for a key. Space around it, such as the line end of the file that it came from, is
    no part of it. Raises `SetupError`, in which the key is not.
    """
    key = api_key.strip()
    if not _KEY.fullmatch(key):
        raise SetupError("the API key holds characters that no key has: spaces, line ends, or what is not ASCII")
    return f"Bearer {key}"


def check_header(name: str, value: str) -> None:
    """Raises `SetupError`, in which the value is not, where these cannot be a header (RFC 9110, 5.1 and 5.5)."""
    if not _TOKEN.fullmatch(name):
        raise SetupError(f"{name!r} is no name of a header")
    if not _VALUE.fullmatch(value):
        raise SetupError(f"the header {name!r} holds a line end, or a character that is not printable ASCII")
