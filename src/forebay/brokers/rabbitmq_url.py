"""The URL of a RabbitMQ, taken apart."""

from __future__ import annotations

import ssl
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from forebay.core.errors import SetupError
from forebay.core.store_url import masked_url

FORM: Final = "amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps:// (TLS); of a cluster name several: HOST:PORT,HOST:PORT"
_OPTIONS: Final = frozenset(
    {"prefix", "heartbeat", "max_length", "max_length_bytes", "cafile", "certfile", "keyfile", "verify"}
)
_HEARTBEAT_S: Final = 6
"""Three of them that do not come make a connection dead: a cut network is noticed within half a minute."""
_PREFIX_BYTES: Final = 100


class RabbitAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL taken apart. `hosts` are nodes of one cluster; the first that answers is used."""

    shown: str
    """The URL without user, password and options: for logs and messages."""
    hosts: tuple[tuple[str, int], ...]
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    tls: bool = False
    prefix: str = "forebay"
    """Begins the name of every queue."""
    heartbeat_s: int = _HEARTBEAT_S
    max_length: int = 4_000_000
    """Messages of one queue; the broker refuses more. Above what the store lets wait, which so refuses first."""
    max_length_bytes: int = 16 << 30
    certificates: dict[str, str] = {}

    def ssl_context(self) -> ssl.SSLContext | None:
        """None without TLS. Raises `SetupError` for files that cannot be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.certificates.get("cafile"))
            if "certfile" in self.certificates:
                context.load_cert_chain(self.certificates["certfile"], self.certificates.get("keyfile"))
        except OSError as error:
            raise SetupError(f"{self.shown!r}: its certificates cannot be used: {error}") from None
        if self.certificates.get("verify") == "no":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def parse_url(url: str) -> RabbitAddress:
    """Take a URL apart. Raises `SetupError` for one that no RabbitMQ can have, without showing its password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SetupError(f"the broker's URL cannot be read; write {FORM}") from None
    if "@" in parts.path + parts.query + parts.fragment:
        # A password with a /, ? or # in it ends there what is taken for user, password and host.
        raise SetupError(
            f"{masked_url(url)!r} cannot be read: percent-encode the password, and @ wherever it is no user's: "
            f"/ is %2F, ? %3F, # %23, @ %40; write {FORM}"
        )
    userinfo, _, hosts = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{hosts}{parts.path}"
    if parts.scheme not in ("amqp", "amqps"):
        raise SetupError(f"{shown!r} is no URL of a RabbitMQ; write {FORM}")
    if not hosts:
        raise SetupError(f"{shown!r} names no host; write {FORM}")
    vhost = parts.path.removeprefix("/")
    if "/" in vhost:
        raise SetupError(f"{shown!r}: a slash in the name of a vhost is written %2F")
    user, _, password = userinfo.partition(":")
    named: dict[str, Any] = {"user": unquote(user), "password": unquote(password)} if user else {}
    named |= _options(parts.query, shown)
    _check_tls_options(parts.scheme == "amqps", named.get("certificates", {}), shown)
    port = 5671 if parts.scheme == "amqps" else 5672
    return RabbitAddress(
        shown=shown, hosts=_hosts(hosts, port, shown), vhost=unquote(vhost) or "/", tls=parts.scheme == "amqps", **named
    )


def _options(query: str, shown: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    certificates: dict[str, str] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise SetupError(f"{shown!r}: unknown option {name!r}; there are {', '.join(sorted(_OPTIONS))}")
        if name == "prefix":
            if not text or len(text.encode()) > _PREFIX_BYTES:
                raise SetupError(f"{shown!r}: prefix must have 1 to {_PREFIX_BYTES} bytes")
            options[name] = text
        elif name in ("cafile", "certfile", "keyfile"):
            certificates[name] = text
        elif name == "verify":
            if text not in ("yes", "no"):
                raise SetupError(f"{shown!r}: verify must be yes or no, got {text!r}")
            certificates[name] = text
        else:
            if not (text.isascii() and text.isdecimal() and int(text) > 0):
                raise SetupError(f"{shown!r}: {name} must be a number above 0, got {text!r}")
            options["heartbeat_s" if name == "heartbeat" else name] = int(text)
    return options | ({"certificates": certificates} if certificates else {})


def _check_tls_options(tls: bool, certificates: dict[str, str], shown: str) -> None:
    """Raises `SetupError` for what would be passed over in silence."""
    if certificates and not tls:
        raise SetupError(f"{shown!r}: {', '.join(certificates)}: only with TLS; write amqps://")
    if "keyfile" in certificates and "certfile" not in certificates:
        raise SetupError(f"{shown!r}: keyfile is the key of a certificate, so name that too: certfile=PATH")


def _hosts(text: str, port: int, shown: str) -> tuple[tuple[str, int], ...]:
    hosts = []
    for item in text.split(","):
        try:
            one = urlsplit(f"//{item}")
            hosts.append((one.hostname or "", one.port or port))
        except ValueError:
            hosts.append(("", 0))
        if not hosts[-1][0]:
            raise SetupError(f"{shown!r}: {item!r} is no HOST:PORT")
    return tuple(hosts)
