"""Answers as a strict client reads them, in the form in which two servers are compared."""

from __future__ import annotations

import re
from typing import NamedTuple

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [\x20-\x7e]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9a-z-]+): ([\x20-\x7e]*)")


class Reply(NamedTuple):
    """One answer; header order and the date are left out."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it says that its connection ends."""
        return (b"connection", b"close") in self.headers


def parse(data: bytes, bodiless: frozenset[int] = frozenset()) -> list[Reply]:
    """All answers in `data`, interim ones included. `bodiless`: positions of answers to HEAD.

    Raises `ValueError` for anything that a strict client would not take, a cut answer included.
    """
    found: list[Reply] = []
    position = 0
    while position < len(data):
        end = data.find(b"\r\n\r\n", position)
        if end < 0:
            raise ValueError(f"a head without an end: {data[position:]!r}")
        first, *lines = data[position:end].split(b"\r\n")
        position = end + 4
        status = _STATUS.fullmatch(first)
        matches = [_HEADER.fullmatch(line) for line in lines]
        if status is None or not all(matches):
            raise ValueError(f"not a head: {data[:end]!r}")
        headers = [(match[1], match[2]) for match in matches if match is not None]
        names = [name for name, _ in headers]
        if len(set(names)) != len(names):
            raise ValueError(f"a header stands twice: {headers}")
        code = int(status[1])
        body = b""
        if code >= 200:
            length = int(dict(headers)[b"content-length"])
            if len(found) not in bodiless:
                body = data[position : position + length]
                if len(body) != length:
                    raise ValueError(f"a body was cut: {data[-200:]!r}")
                position += length
            if (b"date" in names) is False:
                raise ValueError("an answer without a date")
        found.append(Reply(code, tuple(sorted(pair for pair in headers if pair[0] != b"date")), body))
    return found
