"""The URL of a Redis or Valkey, taken apart."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from forebay.core.errors import SetupError

Kind = Literal["single", "sentinel", "cluster"]
_FORMS = (
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS), unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or "
    "redis+cluster://HOST:PORT,HOST:PORT"
)
_OPTIONS = frozenset(
    {"db", "username", "password", "client_name", "sentinel_username", "sentinel_password"}
    | {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL taken apart. `options` are keyword arguments of redis-py's connections."""

    shown: str
    """The URL without user, password and options: for logs and messages."""
    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    tls: bool = False
    options: dict[str, Any] = {}
    sentinel_options: dict[str, Any] = {}


def parse_url(url: str) -> RedisAddress:
    """Take a URL apart. Raises `SetupError` for one that no server can have, without showing its password."""
    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{hosts}{parts.path}"
    secure, _, form = parts.scheme.partition("+")
    if (
        secure not in ("redis", "rediss", "unix")
        or form not in ("", "sentinel", "cluster")
        or (form and secure == "unix")
    ):
        raise SetupError(f"{shown!r} is no URL of a Redis or Valkey; write {_FORMS}")
    kind: Kind = "sentinel" if form == "sentinel" else "cluster" if form == "cluster" else "single"
    options = _options(parts.query, shown)
    if secure != "rediss" and (named := [name for name in options if name.startswith("ssl_")]):
        raise SetupError(f"{shown!r}: {', '.join(named)}: only with TLS; write rediss://")
    user, _, password = userinfo.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    sentinel = {
        name.removeprefix("sentinel_"): options.pop(name) for name in tuple(options) if name.startswith("sentinel_")
    }
    path = unquote(parts.path)
    if secure == "unix":
        if not path:
            raise SetupError(f"{shown!r} names no socket; write unix:///PATH")
        return RedisAddress(shown=shown, kind=kind, path=path, options=options)
    service, database = (path.strip("/"), "") if kind == "sentinel" else ("", path.strip("/"))
    if kind == "sentinel" and not service:
        raise SetupError(f"{shown!r} names no service; write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    if database:
        options["db"] = _number(database, "database", shown)
    if kind == "cluster" and options.pop("db", 0):
        raise SetupError(f"{shown!r}: a cluster has database 0 only")
    port = 26379 if kind == "sentinel" else 6379
    return RedisAddress(
        shown=shown, kind=kind, hosts=_hosts(hosts, port, shown), service=service, tls=secure == "rediss",
        options=options, sentinel_options=sentinel,
    )  # fmt: skip


def _options(query: str, shown: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise SetupError(f"{shown!r}: unknown option {name!r}; there are {', '.join(sorted(_OPTIONS))}")
        if name == "db":
            options[name] = _number(text, "db", shown)
        elif name == "ssl_check_hostname":
            options[name] = text.lower() in ("1", "true", "yes")
        else:
            options[name] = text
    return options


def _number(text: str, what: str, shown: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise SetupError(f"{shown!r}: {what} must be a number, got {text!r}")
    return int(text)


def _hosts(text: str, port: int, shown: str) -> tuple[tuple[str, int], ...]:
    hosts = []
    for item in text.split(",") if text else ["127.0.0.1"]:
        try:
            one = urlsplit(f"//{item}")
            hosts.append((unquote(one.hostname or "127.0.0.1"), one.port or port))
        except ValueError:
            raise SetupError(f"{shown!r}: {item!r} is no HOST:PORT") from None
    return tuple(hosts)
