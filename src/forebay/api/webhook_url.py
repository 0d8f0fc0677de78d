"""Where a webhook may point: a URL of a caller that this server is to call must not reach what only the server can.

A name is only looked up when the webhook is sent, so that is when its addresses are checked, with the same
`is_public`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

from forebay.api.auth import is_loopback
from forebay.api.elements import kind, show
from forebay.core.errors import RequestError
from forebay.core.settings import JobSettings

LONGEST_URL = 2048
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
"""RFC 8215. Python before 3.11.10 takes it for global."""


def private_allowed(settings: JobSettings, host: str) -> bool:
    """Whether webhooks may go to addresses that are not public. `host`: the address that this server is bound to."""
    return settings.private_webhooks == "on" or (settings.private_webhooks == "auto" and is_loopback(host))


def check_webhook(url: Any, private: bool) -> str:
    """The URL of a webhook. `private`: it may point to addresses that are not public. Raises `RequestError`."""
    if type(url) is not str:
        raise RequestError(f"webhook must be a URL, got {kind(url) if url is None else show(url)}")
    if len(url) > LONGEST_URL:
        raise RequestError(f"webhook must have at most {LONGEST_URL} characters, got {len(url)}")
    if not url.isascii() or any(character <= " " or character in '\x7f\\"<>^`{|}' for character in url):
        raise RequestError(f"webhook holds a character that a URL does not (percent-encode it): {show(url)}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise RequestError(f"webhook is not a URL: {show(url)}") from None
    if parts.scheme not in ("http", "https"):
        raise RequestError(f"webhook must be an http or https URL, got {show(url)}")
    if "@" in parts.netloc:
        raise RequestError("webhook must not hold a user name or password; deliveries are signed instead")
    if not host.strip(".") or port == 0:
        raise RequestError(f"webhook has no host or port to call: {show(url)}")
    if not private and not _may_be_public(host):
        raise RequestError(
            f"webhook must point to a public address, got {show(host)}; the setting jobs.private_webhooks allows others"
        )
    return url


def _may_be_public(host: str) -> bool:
    """False for an address that is not public, however it is written, and for names of this machine."""
    bare = host.rstrip(".").lower()
    if bare == "localhost" or bare.endswith((".localhost", ".local", ".internal")):
        return False
    with contextlib.suppress(ValueError):
        return is_public(bare)
    with contextlib.suppress(OSError):
        # 127.1, 0x7f000001 and the like, which the system's resolver takes for addresses.
        return is_public(socket.inet_ntoa(socket.inet_aton(bare)))
    return True


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet. Raises `ValueError` for what is no address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip in _LOCAL_NAT64 or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast
