"""The `Prefer` request header: what a client would like, and may be refused without an error.

Source: RFC 7240 (`respond-async`, `wait`; 2: of a preference that stands twice the first counts, what is not understood
is passed over).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MOST_WAIT_S = 60
"""A client that would wait longer waits so long; `Preference-Applied` says so."""

_LONGEST_HEADER_BYTES = 1024
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(rf"\s*({_TOKEN})\s*(?:=\s*({_QUOTED}|{_TOKEN}))?\s*(?:;.*)?")
_SPLIT = re.compile(rf"(?:[^,\"]|{_QUOTED})+")


class Preferences(NamedTuple):
    """What of it Forebay understands. `wait_s` None: not said."""

    respond_async: bool = False
    wait_s: int | None = None


NO_PREFERENCES = Preferences()


def read_preferences(headers: Iterable[tuple[bytes, bytes]]) -> Preferences:
    """The preferences of a request with these headers, whose names are in lower case."""
    given = b",".join([value for name, value in headers if name == b"prefer"])
    if not given or len(given) > _LONGEST_HEADER_BYTES:
        return NO_PREFERENCES
    found: dict[str, str] = {}
    for part in _SPLIT.findall(given.decode("latin-1")):
        match = _PREFERENCE.fullmatch(part)
        if match is not None:
            found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
    wait = found.get("wait", "")
    waits = wait.isascii() and wait.isdigit()
    return Preferences("respond-async" in found, min(int(wait), MOST_WAIT_S) if waits else None)


def applied(wait_s: int | None, *, respond_async: bool = False) -> tuple[tuple[bytes, bytes], ...]:
    """The header that says which preferences were followed; none where there were none."""
    followed = [b"respond-async"] if respond_async else []
    if wait_s is not None:
        followed.append(b"wait=%d" % wait_s)
    return ((b"preference-applied", b", ".join(followed)),) if followed else ()
