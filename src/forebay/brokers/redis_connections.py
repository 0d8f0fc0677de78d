"""Connections of redis-py that write commands by hiredis, which takes a tenth of the time where there are hundreds of
arguments."""

from __future__ import annotations

from typing import Any

import hiredis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection


class _Packing:
    def pack_command(self, *words: Any) -> list[bytes]:
        """A command as it is sent. Like redis-py's, it takes names of two words as one."""
        name = words[0]
        if isinstance(name, str) and " " in name:
            words = (*name.split(), *words[1:])
        pack: Any = hiredis.pack_command
        packed: bytes = pack(words)
        return [packed]


class TcpConnection(_Packing, Connection):
    """To a host and port."""


class TlsConnection(_Packing, SSLConnection):
    """To a host and port, encrypted."""


class SocketConnection(_Packing, UnixDomainSocketConnection):
    """To a Unix socket."""


class SentinelConnection(_Packing, SentinelManagedConnection):
    """To whom Sentinel names as primary."""


class SentinelTlsConnection(_Packing, SentinelManagedSSLConnection):
    """To whom Sentinel names as primary, encrypted."""
